// The key and value cache in pages: what its kernels (nn.hpp) are told by a program.
#include <cstring>

#include "error.hpp"
#include "paged.hpp"
#include "program.hpp"

namespace howdah {
namespace {

/** Where pages, scales and the three tensors of places are among the inputs, and the sizes they agree on. */
struct Pages {
  DType type;
  bool scaled;
  int64_t pages, groups, width, page, value_width, sequences, blocks, tokens;
  size_t places;  // the table; sequences and positions follow

  /** `at`: the pages of keys; then those of values, the scales of both if the pages are i8, and the places `gap` inputs later. */
  Pages(const Instruction& instruction, size_t at, size_t gap) {
    const TensorType &k = instruction.input(at), &v = instruction.input(at + 1);
    type = k.dtype;
    if ((type != DType::f32 && type != DType::bf16 && type != DType::i8) || v.dtype != type) instruction.wrong("pages are f32, bf16 or i8");
    if (k.rank() != 4 || v.rank() != 4) instruction.wrong("pages are (pages, groups, width, page) and (pages, groups, page, width)");
    pages = k.dim(0), groups = k.dim(1), width = k.dim(2), page = k.dim(3), value_width = v.dim(3);
    if (v.dim(0) != pages || v.dim(1) != groups || v.dim(2) != page || page % 16 != 0 || pages == 0)
      instruction.wrong("pages of keys and values do not fit one another, or hold no multiple of 16 positions");
    scaled = type == DType::i8;
    if (scaled)
      for (size_t i : {at + 2, at + 3}) {
        const TensorType& scale = instruction.input(i);
        if (scale.dtype != DType::f32 || scale.size != pages * groups * page) instruction.wrong("scales are f32 (pages, groups, page)");
      }
    places = at + (scaled ? 4 : 2) + gap;
    const TensorType &table = instruction.input(places), &sequence = instruction.input(places + 1), &position = instruction.input(places + 2);
    if (table.dtype != DType::i32 || sequence.dtype != DType::i32 || position.dtype != DType::i32 || table.rank() != 2)
      instruction.wrong("table, sequences and positions are i32");
    sequences = table.dim(0), blocks = table.dim(1), tokens = sequence.size;
    if (position.size != tokens || sequences == 0 || blocks == 0) instruction.wrong("table, sequences and positions do not fit one another");
    if (instruction.inputs.size() != places + 3) instruction.wrong("it has more inputs than it takes");
  }
};

/** An f32 operand (tokens, heads, width) of at least `heads` heads. @returns elements from token to token */
int64_t heads_of(const Instruction& instruction, size_t input, int64_t tokens, int64_t first, int64_t heads, int64_t width) {
  const TensorType& x = instruction.input(input);
  if (x.dtype != DType::f32 || x.rank() != 3 || x.dim(0) != tokens || x.dim(2) != width || first < 0 || x.dim(1) < first + heads)
    instruction.wrong("operand " + std::to_string(input) + " must be f32 (tokens, heads, width) with those heads");
  return x.dim(1) * width;
}

/** paged_attention(q (N,>=H,D), k pages, v pages, [scales], table, sequence, position) {heads, scale} -> (N,H,Dv) */
Kernel make_paged_attention(Instruction& instruction) {
  const Pages p(instruction, 1, 0);
  PagedAttentionArgs args{};
  args.tokens = p.tokens, args.groups = p.groups, args.width = p.width, args.value_width = p.value_width;
  args.pages = p.pages, args.page = p.page, args.sequences = p.sequences, args.blocks = p.blocks, args.type = p.type;
  args.heads = instruction.attribute("heads").integer();
  if (args.heads <= 0 || args.heads % args.groups != 0) instruction.wrong("query heads must be a multiple of key heads");
  args.q_token = heads_of(instruction, 0, p.tokens, 0, args.heads, p.width);
  args.scale = float(instruction.attribute("scale").number());
  args.bf16_compute = instruction.bf16_matmul;
  if (instruction.output(0).dtype != DType::f32 || instruction.output(0).size != p.tokens * args.heads * p.value_width)
    instruction.wrong("its output is f32 (tokens, heads, width)");
  return [args, p](const Call& call) mutable {
    args.q = call.input<float>(0);
    args.k = call.in[1], args.v = call.in[2];
    args.k_scale = p.scaled ? call.input<float>(3) : nullptr;
    args.v_scale = p.scaled ? call.input<float>(4) : nullptr;
    args.table = call.input<int32_t>(p.places), args.sequence = call.input<int32_t>(p.places + 1), args.position = call.input<int32_t>(p.places + 2);
    args.out = call.output<float>(0);
    paged_attention(args);
  };
}

/** page_write(k pages, v pages, [scales], k (N,>=G,D), v (N,>=G,Dv), table, sequence, position) {key_head, value_head} -> pages, [scales] */
Kernel make_page_write(Instruction& instruction) {
  const Pages p(instruction, 0, 2);
  const size_t stored = p.scaled ? 4 : 2;
  if (instruction.outputs.size() != stored) instruction.wrong("it gives as many outputs as it takes pages and scales");
  PageWriteArgs args{};
  args.tokens = p.tokens, args.groups = p.groups, args.width = p.width, args.value_width = p.value_width;
  args.pages = p.pages, args.page = p.page, args.sequences = p.sequences, args.blocks = p.blocks, args.type = p.type;
  const int64_t key_head = instruction.attribute("key_head").integer(), value_head = instruction.attribute("value_head").integer();
  args.k_token = heads_of(instruction, stored, p.tokens, key_head, p.groups, p.width);
  args.v_token = heads_of(instruction, stored + 1, p.tokens, value_head, p.groups, p.value_width);
  std::vector<int64_t> bytes;
  for (size_t i = 0; i < stored; ++i) bytes.push_back(instruction.input(i).bytes);
  return [=](const Call& call) mutable {
    for (size_t i = 0; i < stored; ++i)
      if (call.in[i] != call.out[i]) std::memcpy(call.out[i], call.in[i], size_t(bytes[i]));
    args.k = call.input<float>(stored) + key_head * args.width;
    args.v = call.input<float>(stored + 1) + value_head * args.value_width;
    args.k_pages = call.out[0], args.v_pages = call.out[1];
    if (p.scaled) args.k_scale = call.output<float>(2), args.v_scale = call.output<float>(3);
    args.table = call.input<int32_t>(p.places), args.sequence = call.input<int32_t>(p.places + 1), args.position = call.input<int32_t>(p.places + 2);
    page_write(args);
  };
}

}  // namespace

std::vector<KernelEntry> paged_kernels() { return {{"paged_attention", make_paged_attention}, {"page_write", make_page_write}}; }

}  // namespace howdah
