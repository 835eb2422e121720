// Scratch memory of `decode_step`.
#ifndef RYOT_KERNELS_CPU_OPS_DECODE_SCRATCH_H_
#define RYOT_KERNELS_CPU_OPS_DECODE_SCRATCH_H_

#include "../core/kernels.h"
#include "../core/micro_kernel.h"

namespace ryot {
namespace {

constexpr long kStepRows = 4 * kTileRows;  // rows of a chunk
// Rows of a sequence whose attention is computed together.
constexpr long kRowsTogether = Traits::kRegisters >= 32 ? 4 : 2;

// A worker's scratch for a chunk of rows; all parts begin at whole cache lines.
struct StepScratch {
  float* x;         // [kStepRows][round_up(D, kLanes)], the residual stream; zeros beyond each row's end
  float* qkv;       // [kStepRows][row of 3 D]
  float* up;        // [kStepRows][row of 2 F], only for swiglu
  Operand* normed;   // [kStepRows][words of D]: operands of products, like the next two
  Operand* attended;
  Operand* hidden;   // [kStepRows][words of F]
  Word* queries;    // [kStepRows][heads][words of a head]
  Operand* rounded;  // a head's key or value
  float* scores;    // [kRowsTogether][capacity]
  Word* weights;    // [kRowsTogether][words of the capacity], the softmax of the scores, rounded
  float* best;      // [kStepRows][kLanes], the largest logit of each lane
  int32_t* best_at; // and its index
  struct Row {
    long sequence, index, position;
  };
  Row rows[kStepRows];

  static long line(long words) { return round_up(words, 16); }
  static long size(const DecodeArgs& args) {  // in words
    const long D = args.width, F = args.hidden;
    return kStepRows * (line(round_up(D, kLanes)) + line(3 * D) + line(2 * F) + 2 * line(words(D)) + line(words(F)) +
                        2 * kLanes) +
           kStepRows * line(args.heads * words(D / args.heads)) + line(D) + 2 * line(kRowsTogether * args.capacity);
  }
  StepScratch(Word* at, const DecodeArgs& args) {
    const long D = args.width, F = args.hidden;
    const auto take = [&](long words) { Word* start = at; at += words; return start; };
    x = reinterpret_cast<float*>(take(kStepRows * line(round_up(D, kLanes))));
    qkv = reinterpret_cast<float*>(take(kStepRows * line(3 * D)));
    up = reinterpret_cast<float*>(take(kStepRows * line(2 * F)));
    normed = reinterpret_cast<Operand*>(take(kStepRows * line(words(D))));
    attended = reinterpret_cast<Operand*>(take(kStepRows * line(words(D))));
    hidden = reinterpret_cast<Operand*>(take(kStepRows * line(words(F))));
    queries = take(kStepRows * line(args.heads * words(D / args.heads)));
    rounded = reinterpret_cast<Operand*>(take(line(D)));
    scores = reinterpret_cast<float*>(take(line(kRowsTogether * args.capacity)));
    weights = take(line(kRowsTogether * args.capacity));
    best = reinterpret_cast<float*>(take(kStepRows * kLanes));
    best_at = reinterpret_cast<int32_t*>(take(kStepRows * kLanes));
  }
};

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_OPS_DECODE_SCRATCH_H_
