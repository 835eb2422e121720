// A parallel loop that the kernels can run on whatever threads the caller has.
//
// The kernels are compiled once per instruction set. They take the loop as a plain function pointer
// and a context, so that no inline function of the standard library is instantiated with
// instructions that the machine may lack.
#ifndef RYOT_KERNELS_CPU_PARALLEL_H_
#define RYOT_KERNELS_CPU_PARALLEL_H_

namespace ryot {

class Parallel {
 public:
  using Body = void (*)(void* context, long task, long worker);
  virtual ~Parallel() = default;
  // At least 1.
  virtual long num_workers() const = 0;
  // Calls body(context, task, worker) once for each task in [0, num_tasks), in any order and on any thread, and
  // returns when all calls have returned. No two calls with the same worker, in [0, num_workers()), run at a time.
  virtual void run(long num_tasks, Body body, void* context) const = 0;
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_PARALLEL_H_
