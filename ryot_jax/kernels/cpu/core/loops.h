// Parallel loops over lambdas.
#ifndef RYOT_KERNELS_CPU_CORE_LOOPS_H_
#define RYOT_KERNELS_CPU_CORE_LOOPS_H_

#include "common.h"
#include "parallel.h"

namespace ryot {
namespace {

// A parallel loop: body(task, next, worker) for each task, see `Loop`.
template <typename Body>
struct Tasks {
  long count;
  Body body;
};
template <typename Body>
static Tasks<Body> tasks(long count, Body body) {
  return {count, body};
}
template <typename Body>
static void call_body(void* body, long task, long next, long worker) {
  (*static_cast<Body*>(body))(task, next, worker);
}
// Runs loops one after the other on the threads of `parallel`.
template <typename... Bodies>
static void run(const Parallel& parallel, Tasks<Bodies>... loops) {
  static_assert(sizeof...(loops) <= Parallel::kMostLoops, "too many loops for one run");
  const Loop list[] = {{loops.count, call_body<Bodies>, &loops.body}...};
  parallel.run(list, sizeof...(loops));
}

}  // namespace
}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_LOOPS_H_
