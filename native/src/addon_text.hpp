#pragma once
#include <node_api.h>

namespace howdah {

/** Adds the functions for tokenizers to the addon. */
void register_text(napi_env env, napi_value exports);

}  // namespace howdah
