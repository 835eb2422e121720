// Parallel loops, which kernels run on the caller's threads, whatever they are.
//
// The kernels are compiled once per target. They take a loop as a plain function pointer and a context, so that no
// inline function of the standard library is instantiated with instructions that the machine may lack.
#ifndef RYOT_KERNELS_CPU_CORE_PARALLEL_H_
#define RYOT_KERNELS_CPU_CORE_PARALLEL_H_

namespace ryot {

struct Loop {
  long num_tasks;
  // `next` is the task of this loop that the same worker runs after this one if it is known, else -1.
  void (*body)(void* context, long task, long next, long worker);
  void* context;
};

// A target's functions for each thread that takes part in a run, called before its first task and after its last one.
// Null: none.
struct WorkerHooks {
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
};

class Parallel {
 public:
  static constexpr long kMostLoops = 4;
  virtual ~Parallel() = default;
  // At least 1.
  virtual long num_workers() const = 0;
  // Calls the body of each loop once for each of its tasks, in any order and on any thread, and returns when all calls
  // have returned. A task starts when those of all earlier loops have ended. No two calls with the same worker,
  // in [0, num_workers()), run concurrently. Without memory for helpers the caller runs all tasks by itself.
  virtual void run(const Loop* loops, long num_loops) const noexcept = 0;
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_PARALLEL_H_
