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
// one counter, and wait only for tasks that a running thread has already claimed. A helper that starts late finds
// nothing left and leaves; what it looks at outlives the call.
template <typename Pool>
class PoolParallel : public Parallel {
 public:
  explicit PoolParallel(Pool& pool) : pool_(pool), num_workers_(pool.num_threads() < 1 ? 1 : pool.num_threads()) {}

  long num_workers() const override { return num_workers_; }

  void run(const Loop* loops, long num_loops) const override {
    auto claims = std::make_shared<Claims>();
    claims->num_workers = num_workers_;
    long widest = 0;
    for (long i = 0; i < num_loops; ++i) {
      claims->loops[i] = loops[i];
      claims->end[i] = claims->total += loops[i].num_tasks;
      widest = widest < loops[i].num_tasks ? loops[i].num_tasks : widest;
    }
    const long helpers = (widest < num_workers_ ? widest : num_workers_) - 1;
    for (long worker = 1; worker <= helpers; ++worker)
      pool_.Schedule(std::function<void()>([claims, worker] { claims->work(worker); }));
    claims->work(0);
    claims->wait_for(claims->total);
  }

 private:
  struct Claims {
    Loop loops[kMostLoops];
    long end[kMostLoops];  // tasks are numbered through; those of loop i end here
    long num_workers = 1, total = 0;
    std::atomic<long> next{0}, done{0};

    // Since no task starts before those of the loops before its own have ended, `count` tasks done are the first ones
    // where `count` is the end of a loop.
    void wait_for(long count) const {
      for (long spins = 0; done.load(std::memory_order_acquire) < count; ++spins)
        if (spins > 10000) std::this_thread::yield();
    }

    void work(long worker) {
      for (long task = next.fetch_add(1); task < total;) {
        long loop = 0;
        while (task >= end[loop]) ++loop;
        const long start = end[loop] - loops[loop].num_tasks;
        // The next task is claimed early, so that its operands can be fetched meanwhile, while there are enough left
        // for all workers.
        const long ahead = task + 2 * num_workers < end[loop] ? next.fetch_add(1) : -1;
        wait_for(start);
        loops[loop].body(loops[loop].context, task - start, ahead < end[loop] ? ahead - start : -1, worker);
        done.fetch_add(1, std::memory_order_release);
        task = ahead >= 0 ? ahead : next.fetch_add(1);
      }
    }
  };

  Pool& pool_;
  const long num_workers_;
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_POOL_H_
