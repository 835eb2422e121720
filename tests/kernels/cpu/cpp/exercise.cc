// Runs every C++ kernel of every target that this processor has on odd and tiny sizes, with threads of its own, for the
// sanitizers to watch. Prints the targets' names and the number of failures.
//
// Arrays are allocated at exactly their size, so that a read or write beyond one is found. Numbers are judged by the
// Python tests; here each result is only compared with that of one thread, which must be the same bits. With the name of
// a file, the results of fewer sizes are written there instead, each after a line "kernel output count", and each
// target's after a line "target NAME BFLOAT16": all targets get the same operands.
#include "decoding.h"
#include "layers.h"
#include "rounds.h"
#include "threads.h"

namespace {

void exercise(const ryot::Target& target) {
  const bool bf16 = target.bfloat16;
  for (long N : {0L, 1L, 13L, 97L, 230L})
    for (long K : {1L, 7L, 34L})
      for (long M : {1L, 2L, 33L, 64L}) dense(target, bf16, N, K, M);
  for (long N : {0L, 1L, 97L, 230L})
    for (long K : {1L, 7L, 34L}) norm_dense(target, bf16, N, K, 33);
  dense(target, bf16, 2301, 34, 33);  // rows for groups with a gradient of the weights each, of more than one chunk
  norm_dense(target, bf16, 2301, 34, 33);
  dense_in_groups(target, bf16, 2301, 34, 33);
  dense_in_groups(target, bf16, 2113, 34, 33);  // the last group's last chunk is empty
  for (long N : {0L, 1L, 70L})
    for (long D : {1L, 15L, 16L, 37L}) norm(target, bf16, N, D);
  attention(target, bf16, 1, 1, 1, 1, 1, 1);
  attention(target, bf16, 2, 13, 13, 4, 2, 5);
  attention(target, bf16, 1, 31, 7, 2, 1, 17);
  attention(target, bf16, 1, 261, 261, 1, 1, 33);
  for (long N : {0L, 1L, 51L, 130L})
    for (long D : {1L, 33L})
      for (long V : {1L, 2L, 65L}) linear_cross_entropy(target, bf16, N, D, V);
  for (long N : {0L, 1L, 40L})
    for (long D : {1L, 70L}) embedding(target, bf16, N, D, 11);
  for (float clip_norm : {0.0f, 1.0f}) adamw(target, {1, 0, 17, 40000}, clip_norm);
  for (long K : {1L, 34L, 71L})
    for (long M : {1L, 33L, 300L}) pack_weights(target, K, M);
  decode_steps(target, bf16);
  threads(target, bf16);
}

void record_results(const ryot::Target& target) {
  const bool bf16 = target.bfloat16;
  generator.seed(7);
  for (long N : {1L, 97L})
    for (long K : {7L, 34L, 96L})
      for (long M : {33L, 64L}) dense(target, bf16, N, K, M);
  norm_dense(target, bf16, 97, 34, 33);
  dense(target, bf16, 2301, 34, 33);
  norm(target, bf16, 70, 37);
  attention(target, bf16, 2, 13, 13, 4, 2, 5);
  attention(target, bf16, 1, 31, 7, 2, 1, 17);
  attention(target, bf16, 1, 139, 139, 1, 1, 32);
  linear_cross_entropy(target, bf16, 51, 33, 65);
  embedding(target, bf16, 40, 70, 11);
  for (float clip_norm : {0.0f, 1.0f}) adamw(target, {1, 0, 17, 400}, clip_norm);
  // Packed weights and caches are laid out differently in each target: decoding is only run, by one thread and by three.
  std::FILE* const file = record;
  record = nullptr;
  pack_weights(target, 34, 33);
  decode_few_steps(target, bf16);
  record = file;
}

int record_all(const char* path) {
  record = std::fopen(path, "wb");
  if (!record) return 1;
  for (const ryot::Target* target = ryot::all_targets(); target; target = target->next) {
    if (target->missing()) continue;
    std::fprintf(record, "target %s %d\n", target->name, target->bfloat16);
    record_results(*target);
  }
  return std::fclose(record) || failures;
}

}  // namespace

int main(int count, char** words) {
  if (count > 1) return record_all(words[1]);
  for (const ryot::Target* target = ryot::all_targets(); target; target = target->next) {
    if (target->missing()) continue;
    exercise(*target);
    std::printf("%s\n", target->name);
  }
  counters_are_apart();
  waiting_uses_no_processor();
  hooks_run_around_tasks();
  a_limit_holds_for_later_calls();
  for (long steps : {2L, 3L, 7L})
    for (long vocabulary : {2L, 13L, 40L})
      for (long capacity : {1L, 5L, 64L}) rounds(steps, vocabulary, capacity);
  refused_rounds();
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
