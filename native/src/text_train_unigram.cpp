#include "text_train_unigram.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "text_batch.hpp"
#include "text_points.hpp"
#include "text_trie.hpp"

namespace howdah::text {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
/** Sums are made in so many parts, whatever the number of threads. */
constexpr size_t kParts = 8;

/** A run of characters that are all in the alphabet, in `Text::bytes`. */
struct Part {
  uint64_t begin;
  uint32_t length;
  uint64_t count;
};

/** What is learnt from. */
struct Text {
  std::vector<uint8_t> bytes;
  std::vector<Part> parts;
  /** Parts [borders[i], borders[i + 1]) are of about equal size in bytes. */
  size_t borders[kParts + 1];
};

/** A character outside of the alphabet ends a piece: words are cut there. Words are put in order, so that neighbours have their beginnings in common. */
Text text_of(WordCounts& words, const CodePointMap& known) {
  Text text;
  std::vector<uint32_t> order(words.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto view = [&](uint32_t i) {
    const WordCounts::Entry& entry = words.entries[i];
    return std::string_view(reinterpret_cast<const char*>(words.arena.data()) + entry.begin, entry.length);
  };
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return view(a) < view(b); });
  text.bytes.reserve(words.arena.size());
  text.parts.reserve(words.size());
  for (const uint32_t i : order) {
    const std::string_view word = view(i);
    const auto* p = reinterpret_cast<const uint8_t*>(word.data());
    const uint8_t* const end = p + word.size();
    const uint8_t* start = p;
    const auto add = [&](const uint8_t* stop) {
      if (stop == start) return;
      text.parts.push_back({text.bytes.size(), uint32_t(stop - start), words.entries[i].count});
      text.bytes.insert(text.bytes.end(), start, stop);
    };
    while (p < end) {
      const uint8_t* const at = p;
      if (known.get(next_point(p)) != kNone) continue;
      add(at);
      start = p;
    }
    add(end);
  }
  words.clear();
  size_t part = 0;
  for (size_t i = 0; i <= kParts; i++) {
    const uint64_t wanted = text.bytes.size() * i / kParts;
    while (part < text.parts.size() && text.parts[part].begin < wanted) part++;
    text.borders[i] = i == kParts ? text.parts.size() : part;
  }
  return text;
}

struct Model {
  /** Spelling of piece i: [begin, begin + length) of `pool`. Pieces are in the order of their bytes. */
  struct Piece {
    uint32_t begin;
    uint8_t length;
    /** A character stays in any case. */
    bool single;
    /** Place among the seeds, which decides between equals. */
    uint32_t rank;
    double score;
  };
  std::string pool;
  std::vector<Piece> pieces;
  std::string_view spelling(const Piece& piece) const { return std::string_view(pool).substr(piece.begin, piece.length); }
};

// ---- Seeds ----

/** Substrings seen twice or more, found by sorting all places of the text by what follows there, a few characters at a time. */
class Seeds {
 public:
  Seeds(const Text& text, const std::vector<uint32_t>& alphabet, const CodePointMap& known, const UnigramOptions& options, const Work& work)
      : text(text), alphabet(alphabet), options(options), work(work), singles(alphabet.size()) {
    for (size_t i = 0; i < text.parts.size(); i++) {
      const Part& part = text.parts[i];
      const uint8_t* p = text.bytes.data() + part.begin;
      const uint8_t* const end = p + part.length;
      while (p < end) {
        const uint32_t character = known.get(next_point(p));
        singles[character] += double(part.count);
        characters.push_back(character + 1);
        part_of.push_back(uint32_t(i));
      }
      characters.push_back(0);
      part_of.push_back(uint32_t(i));
    }
    if (characters.size() > 0xffffff00u) fail("More than four billion characters are too many to learn from at once. Give training less memory.");
    characters.insert(characters.end(), kAtOnce, 0);
  }

  Model find() {
    // Places by their first character; each group is a task.
    std::vector<uint32_t> starts(alphabet.size() + 2);
    const size_t size = characters.size() - kAtOnce;
    const auto counts = [&](size_t i) { return characters[i] && characters[i + 1]; };
    for (size_t i = 0; i < size; i++)
      if (counts(i)) starts[characters[i] + 1]++;
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<uint32_t> places(starts.back());
    {
      std::vector<uint32_t> next = starts;
      for (size_t i = 0; i < size; i++)
        if (counts(i)) places[next[characters[i]]++] = uint32_t(i);
    }
    std::vector<uint32_t> groups(alphabet.size());
    std::iota(groups.begin(), groups.end(), 1u);
    const auto size_of = [&](uint32_t g) { return starts[g + 1] - starts[g]; };
    std::sort(groups.begin(), groups.end(), [&](uint32_t a, uint32_t b) { return size_of(a) > size_of(b); });

    const size_t room = options.seeds > alphabet.size() ? options.seeds - alphabet.size() : 0;
    std::vector<Found> found(size_t(std::max(1, options.threads)));
    for (Found& each : found) each.most = room;
    run_on_threads(groups.size(), options.threads, [&](size_t i, int thread) {
      work.check();
      std::vector<Item> items(size_of(groups[i]));
      const uint32_t* const from = places.data() + starts[groups[i]];
      for (size_t k = 0; k < items.size(); k++) items[k] = {0, from[k], part_of[from[k]]};
      refine(items.data(), items.data() + items.size(), 1, found[size_t(thread)]);
    });
    std::vector<Candidate> all;
    for (Found& each : found) {
      all.insert(all.end(), each.candidates.begin(), each.candidates.end());
      each.candidates = {};
    }
    keep_best(all, room);
    std::sort(all.begin(), all.end(), [&](const Candidate& a, const Candidate& b) { return better(a, b); });

    Model model;
    double sum = 0;
    const auto add = [&](double score, bool single) {
      const auto rank = uint32_t(model.pieces.size());
      model.pieces.push_back({uint32_t(model.pool.size()), 0, single, rank, std::max(score, 1.0)});
      sum += std::max(score, 1.0);
    };
    const auto spell = [&](uint32_t place, uint32_t length) {
      for (uint32_t i = 0; i < length; i++) append(model.pool, alphabet[characters[place + i] - 1]);
    };
    for (size_t i = 0; i < alphabet.size(); i++) {
      add(singles[i], true);
      append(model.pool, alphabet[i]);
      model.pieces.back().length = uint8_t(model.pool.size() - model.pieces.back().begin);
    }
    for (const Candidate& candidate : all) {
      add(candidate.score, false);
      spell(candidate.place, candidate.length);
      model.pieces.back().length = uint8_t(model.pool.size() - model.pieces.back().begin);
    }
    const double total = std::log(sum);
    for (Model::Piece& piece : model.pieces) piece.score = std::log(piece.score) - total;
    std::sort(model.pieces.begin(), model.pieces.end(),
              [&](const Model::Piece& a, const Model::Piece& b) { return model.spelling(a) < model.spelling(b); });
    return model;
  }

 private:
  /** Characters of one key: 21 bits each. */
  static constexpr uint32_t kAtOnce = 3, kBits = 21;

  struct Item {
    uint64_t key;
    uint32_t place, part;
  };
  struct Candidate {
    double score;
    uint32_t place, length;
  };
  struct Found {
    std::vector<Candidate> candidates;
    size_t most = 0;
    /** Nothing below this will be among the best. */
    double floor = 0;
  };

  static void append(std::string& out, uint32_t point) {
    if (point < 0x80) {
      out += char(point);
    } else if (point < 0x800) {
      out += char(0xc0 | point >> 6);
      out += char(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
      out += char(0xe0 | point >> 12);
      out += char(0x80 | (point >> 6 & 0x3f));
      out += char(0x80 | (point & 0x3f));
    } else {
      out += char(0xf0 | point >> 18);
      out += char(0x80 | (point >> 12 & 0x3f));
      out += char(0x80 | (point >> 6 & 0x3f));
      out += char(0x80 | (point & 0x3f));
    }
  }

  bool better(const Candidate& a, const Candidate& b) const {
    if (a.score != b.score) return a.score > b.score;
    const uint32_t *x = characters.data() + a.place, *y = characters.data() + b.place;
    return std::lexicographical_compare(x, x + a.length, y, y + b.length);
  }

  void keep_best(std::vector<Candidate>& all, size_t most) const {
    if (all.size() <= most) return;
    std::nth_element(all.begin(), all.begin() + ptrdiff_t(most), all.end(), [&](const Candidate& a, const Candidate& b) { return better(a, b); });
    all.resize(most);
  }

  void offer(Found& found, uint32_t place, uint32_t length, uint64_t count) const {
    const double score = double(count) * length;
    if (score < found.floor || !found.most) return;
    found.candidates.push_back({score, place, length});
    if (found.candidates.size() < 2 * found.most + 4096) return;
    keep_best(found.candidates, found.most);
    found.floor = std::numeric_limits<double>::infinity();
    for (const Candidate& each : found.candidates) found.floor = std::min(found.floor, each.score);
  }

  /** Items have `depth` characters in common, which together are frequent enough. */
  void refine(Item* begin, Item* end, uint32_t depth, Found& found) const {
    if (depth >= options.longest) return;
    if (end - begin == 1) {
      const uint64_t count = text.parts[begin->part].count;
      for (uint32_t length = depth + 1; length <= options.longest && characters[begin->place + length - 1]; length++)
        offer(found, begin->place, length, count);
      return;
    }
    for (Item* item = begin; item < end; item++) {
      uint64_t key = 0;
      const uint32_t* const from = characters.data() + item->place + depth;
      bool ended = false;
      for (uint32_t i = 0; i < kAtOnce; i++) {
        ended = ended || !from[i];
        key = key << kBits | (ended ? 0 : from[i]);
      }
      item->key = key;
    }
    std::sort(begin, end, [](const Item& a, const Item& b) { return a.key != b.key ? a.key < b.key : a.place < b.place; });
    runs(begin, end, depth, 1, found);
  }

  /** Runs of items whose keys agree in one character more than those of [begin, end) do. */
  void runs(Item* begin, Item* end, uint32_t depth, uint32_t level, Found& found) const {
    const uint32_t shift = (kAtOnce - level) * kBits;
    while (begin < end) {
      const uint64_t prefix = begin->key >> shift;
      Item* stop = begin;
      uint64_t count = 0;
      for (; stop < end && stop->key >> shift == prefix; stop++) count += text.parts[stop->part].count;
      if ((prefix & ((1u << kBits) - 1)) && count >= 2) {
        offer(found, begin->place, depth + level, count);
        if (depth + level < options.longest) {
          if (level < kAtOnce)
            runs(begin, stop, depth, level + 1, found);
          else
            refine(begin, stop, depth + level, found);
        }
      }
      begin = stop;
    }
  }

  const Text& text;
  const std::vector<uint32_t>& alphabet;
  const UnigramOptions& options;
  const Work& work;
  /** Numbers of characters from 1 on, in the order of code points; 0 ends a part. */
  std::vector<uint32_t> characters;
  std::vector<uint32_t> part_of;
  std::vector<double> singles;
};

// ---- Expectation and maximisation ----

/** Derivative of log gamma: asymptotic series after a shift above 7. */
double digamma(double x) {
  double result = 0, y = x;
  for (; y < 7; y++) result -= 1 / y;
  y -= 0.5;
  const double square = 1 / (y * y);
  return result + std::log(y) + square * (1.0 / 24 - square * (7.0 / 960 - square * (31.0 / 8064 - (square * 127) / 30720)));
}

class Learner {
 public:
  Learner(const Text& text, Model model, const UnigramOptions& options, Work& work)
      : text(text), model(std::move(model)), options(options), work(work) {}

  Model learn(size_t alphabet) {
    const size_t desired = std::max(size_t(std::floor(double(options.pieces) * 1.1)), alphabet);
    for (;;) {
      for (int round = 0; round < 2; round++) maximise(expect());
      work.learnt.store(model.pieces.size(), std::memory_order_relaxed);
      if (model.pieces.size() <= desired) break;
      const size_t before = model.pieces.size();
      prune(std::max(desired, size_t(std::floor(options.shrink * double(before)))));
      if (model.pieces.size() == before) break;
    }
    return std::move(model);
  }

 private:
  struct Edge {
    uint32_t from, to, id;
    double forward;
  };
  /** What one thread needs for one part after another. */
  struct Scratch {
    std::vector<double> sums;
    std::vector<int> exponents;
    std::vector<Edge> edges;
    std::vector<uint32_t> from, piece, path;
  };

  void make_trie() {
    std::vector<std::pair<std::string_view, uint32_t>> strings;
    strings.reserve(model.pieces.size());
    for (size_t i = 0; i < model.pieces.size(); i++) strings.emplace_back(model.spelling(model.pieces[i]), uint32_t(i));
    trie.build(std::move(strings));
  }

  /**
   * How often each piece is expected, over all segmentations of each part: forward and backward sums. A byte of text is taken to be `tilt` more
   * likely (in nats) than it is, which changes no share, and keeps sums near 1; where they leave a wide band they are scaled.
   */
  std::vector<double> expect() {
    make_trie();
    const size_t n = model.pieces.size();
    std::vector<double> likely(n);
    for (size_t i = 0; i < n; i++) likely[i] = std::exp(model.pieces[i].score + tilt * model.pieces[i].length);
    std::vector<std::vector<double>> expected(kParts);
    double objective[kParts] = {}, bytes[kParts] = {};
    run_on_threads(kParts, options.threads, [&](size_t block, int) {
      expected[block].assign(n, 0);
      Scratch scratch;
      for (size_t i = text.borders[block]; i < text.borders[block + 1]; i++) {
        if (i % 1024 == 0) work.check();
        const Part& part = text.parts[i];
        const double log_sum = spread(text.bytes.data() + part.begin, part.length, double(part.count), likely.data(), scratch, expected[block].data());
        objective[block] += double(part.count) * (log_sum - tilt * part.length);
        bytes[block] += double(part.count) * part.length;
      }
    });
    std::vector<double>& all = expected[0];
    double likelihood = objective[0], total = bytes[0];
    for (size_t block = 1; block < kParts; block++) {
      for (size_t i = 0; i < n; i++) all[i] += expected[block][i];
      likelihood += objective[block];
      total += bytes[block];
    }
    if (total > 0) tilt = -likelihood / total;
    return std::move(all);
  }

  /** Adds what is expected of one part; returns the logarithm of its (tilted) sum. */
  double spread(const uint8_t* p, uint32_t n, double count, const double* likely, Scratch& scratch, double* expected) const {
    constexpr double high = 0x1p300, low = 0x1p-300;
    std::vector<double>& sums = scratch.sums;
    std::vector<Edge>& edges = scratch.edges;
    sums.assign(n + 1, 0);
    edges.clear();
    sums[0] = 1;
    // Of sums in use: what they are to be multiplied with, as a power of two.
    int scale = 0;
    bool scaled = false;
    uint32_t furthest = 0;
    for (uint32_t from = 0; from < n; from += uint32_t(width_of(p[from]))) {
      double sum = sums[from];
      if (sum > high || sum < low) {
        if (!scaled) scratch.exponents.assign(n + 1, 0);
        scaled = true;
        const int by = std::ilogb(sum);
        for (uint32_t at = from; at <= furthest; at++) sums[at] = std::ldexp(sums[at], -by);
        scale += by;
        sum = sums[from];
      }
      if (scaled) scratch.exponents[from] = scale;
      uint32_t node = 0;
      for (uint32_t to = from; to < n;) {
        node = trie.step(node, p[to++]);
        if (node == Trie::none) break;
        const uint32_t id = trie.value(node);
        if (id == Trie::none) continue;
        const double forward = sum * likely[id];
        sums[to] += forward;
        edges.push_back({from, to, id, forward});
        furthest = std::max(furthest, to);
      }
    }
    const double all = sums[n];
    const double log_sum = std::log(all) + scale * 0.6931471805599453;
    const double share = count / all;

    // The same backwards, in the memory of the forward sums, which the edges keep.
    std::fill(sums.begin(), sums.end(), 0);
    sums[n] = 1;
    const int scale_all = scale;
    int back = 0;
    uint32_t at = n;
    for (size_t e = edges.size(); e-- > 0;) {
      const Edge& edge = edges[e];
      if (edge.from != at) {
        // All edges that begin at `at` are done; sums from there on to the longest piece's end are in use.
        if (at < n && (sums[at] > high || sums[at] < low)) {
          if (!scaled) scratch.exponents.assign(n + 1, 0);
          scaled = true;
          const int by = std::ilogb(sums[at]);
          const uint32_t last = std::min<uint64_t>(n, uint64_t(at) + 255);
          for (uint32_t i = at; i <= last; i++) sums[i] = std::ldexp(sums[i], -by);
          back += by;
        }
        at = edge.from;
      }
      const double backward = sums[edge.to];
      sums[edge.from] += backward * likely[edge.id];
      double times = share * edge.forward * backward;
      if (scaled) times = std::ldexp(edge.forward * (backward * share), scratch.exponents[edge.from] + back - scale_all);
      expected[edge.id] += times;
    }
    return log_sum;
  }

  /** Pieces expected half a time or more stay, with the estimate that prefers few pieces; characters stay in any case. */
  void maximise(const std::vector<double>& expected) {
    size_t kept = 0;
    double sum = 0;
    for (size_t i = 0; i < model.pieces.size(); i++) {
      if (expected[i] < 0.5 && !model.pieces[i].single) continue;
      Model::Piece& piece = model.pieces[kept++];
      piece = model.pieces[i];
      piece.score = std::max(expected[i], 0.5);
      sum += piece.score;
    }
    model.pieces.resize(kept);
    const double total = digamma(sum);
    for (Model::Piece& piece : model.pieces) piece.score = digamma(piece.score) - total;
  }

  /** The best path through [p, p + n) into scratch.path (backwards), without piece `forbidden`; its score, or minus infinity if there is none. */
  double viterbi(const uint8_t* p, uint32_t n, uint32_t forbidden, Scratch& scratch) const {
    std::vector<double>& best = scratch.sums;
    best.assign(n + 1, kNever);
    if (scratch.from.size() <= n) {
      scratch.from.resize(2 * size_t(n) + 1);
      scratch.piece.resize(2 * size_t(n) + 1);
    }
    best[0] = 0;
    for (uint32_t start = 0; start < n; start += uint32_t(width_of(p[start]))) {
      const double sum = best[start];
      if (sum == kNever) continue;
      uint32_t node = 0;
      for (uint32_t end = start; end < n;) {
        node = trie.step(node, p[end++]);
        if (node == Trie::none) break;
        const uint32_t id = trie.value(node);
        if (id == Trie::none || id == forbidden) continue;
        const double score = sum + model.pieces[id].score;
        if (!(score > best[end])) continue;
        best[end] = score;
        scratch.from[end] = start;
        scratch.piece[end] = id;
      }
    }
    scratch.path.clear();
    if (best[n] == kNever) return kNever;
    for (uint32_t end = n; end > 0; end = scratch.from[end]) scratch.path.push_back(scratch.piece[end]);
    return best[n];
  }

  /** Drops pieces until `size` are left: first those that are cut up anyway, then those whose replacement costs the likelihood least. */
  void prune(size_t size) {
    make_trie();
    const size_t n = model.pieces.size();
    std::vector<std::vector<uint64_t>> uses(kParts);
    run_on_threads(kParts, options.threads, [&](size_t block, int) {
      uses[block].assign(n, 0);
      Scratch scratch;
      for (size_t i = text.borders[block]; i < text.borders[block + 1]; i++) {
        if (i % 1024 == 0) work.check();
        const Part& part = text.parts[i];
        viterbi(text.bytes.data() + part.begin, part.length, kNone, scratch);
        for (const uint32_t id : scratch.path) uses[block][id] += part.count;
      }
    });
    for (size_t block = 1; block < kParts; block++)
      for (size_t i = 0; i < n; i++) uses[0][i] += uses[block][i];
    const std::vector<uint64_t>& counts = uses[0];
    const auto total = double(std::accumulate(counts.begin(), counts.end(), uint64_t(0)));
    const double log_total = std::log(total);

    enum class Fate : uint8_t { dropped, kept, weighed };
    std::vector<Fate> fates(n, Fate::dropped);
    std::vector<double> losses(n);
    constexpr size_t kGroup = 4096;
    run_on_threads((n + kGroup - 1) / kGroup, options.threads, [&](size_t group, int) {
      Scratch scratch;
      for (size_t i = group * kGroup; i < std::min(n, (group + 1) * kGroup); i++) {
        const Model::Piece& piece = model.pieces[i];
        if (piece.single) {
          fates[i] = Fate::kept;
          continue;
        }
        const std::string_view spelling = model.spelling(piece);
        const double other = viterbi(reinterpret_cast<const uint8_t*>(spelling.data()), uint32_t(spelling.size()), uint32_t(i), scratch);
        if (other == kNever) {
          fates[i] = Fate::kept;
          continue;
        }
        if (other > piece.score || !counts[i]) continue;
        const auto count = double(counts[i]);
        const double log_other = std::log(total + count * double(scratch.path.size() - 1));
        double replaced = 0;
        for (size_t k = scratch.path.size(); k-- > 0;) replaced += std::log(double(counts[scratch.path[k]]) + count) - log_other;
        fates[i] = Fate::weighed;
        losses[i] = (count / total) * (std::log(count) - log_total - replaced);
      }
    });
    std::vector<uint32_t> weighed;
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
      if (fates[i] == Fate::weighed) weighed.push_back(i);
      kept += fates[i] == Fate::kept;
    }
    std::sort(weighed.begin(), weighed.end(), [&](uint32_t a, uint32_t b) {
      return losses[a] != losses[b] ? losses[a] > losses[b] : model.pieces[a].rank < model.pieces[b].rank;
    });
    for (const uint32_t i : weighed) {
      if (kept >= size) break;
      fates[i] = Fate::kept;
      kept++;
    }
    size_t to = 0;
    for (size_t i = 0; i < n; i++)
      if (fates[i] == Fate::kept) model.pieces[to++] = model.pieces[i];
    model.pieces.resize(to);
  }

  const Text& text;
  Model model;
  const UnigramOptions& options;
  Work& work;
  Trie trie;
  /** The cost of a byte under the last model, in nats; before that a guess. */
  double tilt = 1.5;
};

}  // namespace

std::vector<UnigramPiece> learn_unigram(WordCounts& words, const std::vector<uint32_t>& alphabet, const UnigramOptions& options, Work& work) {
  if (options.longest < 1 || options.longest > 63) fail("Pieces may have 1 to 63 characters, not ", options.longest, ".");
  CodePointMap known;
  for (size_t i = 0; i < alphabet.size(); i++) known.set(alphabet[i], uint32_t(i));
  const Text text = text_of(words, known);
  Model model = Seeds(text, alphabet, known, options, work).find();
  model = Learner(text, std::move(model), options, work).learn(alphabet.size());

  // All characters, and the best of the rest; best first.
  const auto better = [&](const Model::Piece& a, const Model::Piece& b) {
    return a.score != b.score ? a.score > b.score : model.spelling(a) < model.spelling(b);
  };
  std::sort(model.pieces.begin(), model.pieces.end(), better);
  size_t room = options.pieces > alphabet.size() ? options.pieces - alphabet.size() : 0;
  std::vector<UnigramPiece> out;
  for (const Model::Piece& piece : model.pieces) {
    if (!piece.single && !room) continue;
    if (!piece.single) room--;
    out.push_back({std::string(model.spelling(piece)), piece.score});
  }
  return out;
}

}  // namespace howdah::text
