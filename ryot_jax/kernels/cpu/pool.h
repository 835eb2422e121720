// Parallel loops on XLA's own thread pool.
#ifndef RYOT_KERNELS_CPU_POOL_H_
#define RYOT_KERNELS_CPU_POOL_H_

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "parallel.h"

namespace ryot {

// Runs tasks on `Pool`, which has num_threads() and Schedule(function). Handlers run on that pool's threads
// themselves, so waiting for a scheduled task could wait for ever: instead the caller and its helpers claim tasks from
// one counter, and the caller waits only for tasks that a running helper has already claimed. A helper that starts
// late finds nothing left and leaves; what it looks at outlives the call.
template <typename Pool>
class PoolParallel : public Parallel {
 public:
  explicit PoolParallel(Pool& pool) : pool_(pool), num_workers_(pool.num_threads() < 1 ? 1 : pool.num_threads()) {}

  long num_workers() const override { return num_workers_; }

  void run(long num_tasks, Body body, void* context) const override {
    const long helpers = (num_tasks < num_workers_ ? num_tasks : num_workers_) - 1;
    if (helpers < 1) {
      for (long task = 0; task < num_tasks; ++task) body(context, task, 0);
      return;
    }
    auto claims = std::make_shared<Claims>();
    for (long worker = 1; worker <= helpers; ++worker)
      pool_.Schedule(std::function<void()>(
          [claims, num_tasks, body, context, worker] { work(*claims, num_tasks, body, context, worker); }));
    work(*claims, num_tasks, body, context, 0);
    for (long spins = 0; claims->done.load(std::memory_order_acquire) < num_tasks; ++spins)
      if (spins > 10000) std::this_thread::yield();
  }

 private:
  struct Claims {
    std::atomic<long> next{0}, done{0};
  };

  static void work(Claims& claims, long num_tasks, Body body, void* context, long worker) {
    for (long task; (task = claims.next.fetch_add(1)) < num_tasks;) {
      body(context, task, worker);
      claims.done.fetch_add(1, std::memory_order_release);
    }
  }

  Pool& pool_;
  const long num_workers_;
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_POOL_H_
