// Parallel loops on XLA's own thread pool.
#ifndef RYOT_KERNELS_CPU_CORE_POOL_H_
#define RYOT_KERNELS_CPU_CORE_POOL_H_

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "parallel.h"

namespace ryot {

// Tells the processor that this thread is spinning, so that it leaves the core's other thread and the memory bus alone.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The most threads that a call uses, whatever the pool has.
inline std::atomic<long>& worker_limit() {
  static std::atomic<long> limit{1 << 20};
  return limit;
}

// Counters of a call's tasks, each on a line of its own: claiming a task must not disturb the threads that wait for
// others to end.
struct Counters {
  static constexpr long kLine = 128;  // two lines of 64 bytes, which processors prefetch as a pair
  alignas(kLine) std::atomic<long> claimed{0};
  alignas(kLine) std::atomic<long> done{0};
  alignas(kLine) std::atomic<long> sleepers{0};
};

// Claims and completions of the tasks of several loops, numbered consecutively.
class Claims {
 public:
  Claims(const Loop* loops, long num_loops, long num_workers, WorkerHooks hooks)
      : num_workers_(num_workers), hooks_(hooks) {
    for (long i = 0; i < num_loops; ++i) {
      loops_[i] = loops[i];
      end_[i] = total_ += loops[i].num_tasks;
      widest_ = widest_ < loops[i].num_tasks ? loops[i].num_tasks : widest_;
    }
  }
  // The number of workers that can find a task.
  long useful_workers() const { return widest_ < num_workers_ ? widest_ : num_workers_; }

  void work(long worker) noexcept {
    long task = counters_.claimed.fetch_add(1);
    if (task >= total_) return;
    if (hooks_.enter) hooks_.enter();
    while (task < total_) {
      long loop = 0;
      while (task >= end_[loop]) ++loop;
      const long start = end_[loop] - loops_[loop].num_tasks;
      // While enough tasks are left for all workers, the next one is claimed early, so that its operands can be fetched
      // in the meantime.
      const long ahead = task + 2 * num_workers_ < end_[loop] ? counters_.claimed.fetch_add(1) : -1;
      wait_for(start);
      loops_[loop].body(loops_[loop].context, task - start, ahead < end_[loop] ? ahead - start : -1, worker);
      end_task();
      task = ahead >= 0 ? ahead : counters_.claimed.fetch_add(1);
    }
    if (hooks_.leave) hooks_.leave();
  }
  void wait_for_all() noexcept { wait_for(total_); }

 private:
  // No task starts before those of earlier loops have ended, so if `count` is the end of a loop, `count` completed
  // tasks are the first `count` ones. Waits are usually short (for the other workers' last tasks): first spinning, then
  // yielding the processor, then sleeping until a task ends.
  void wait_for(long count) noexcept {
    constexpr long kSpins = 1000, kYields = 1000;
    for (long tries = 0; counters_.done.load(std::memory_order_acquire) < count; ++tries) {
      if (tries < kSpins) {
        pause();
      } else if (tries < kSpins + kYields) {
        std::this_thread::yield();
      } else {
        counters_.sleepers.fetch_add(1);
        {
          std::unique_lock<std::mutex> lock(mutex_);
          ended_.wait(lock, [&] { return counters_.done.load() >= count; });
        }
        counters_.sleepers.fetch_sub(1);
        return;
      }
    }
  }

  void end_task() noexcept {
    counters_.done.fetch_add(1);
    // Either side sees the other: a sleeper counts itself before it reads `done` for the last time.
    if (counters_.sleepers.load() == 0) return;
    { const std::lock_guard<std::mutex> lock(mutex_); }
    ended_.notify_all();
  }

  Loop loops_[Parallel::kMostLoops];
  long end_[Parallel::kMostLoops];  // one past the last task of loop i
  long num_workers_, total_ = 0, widest_ = 0;
  WorkerHooks hooks_;
  Counters counters_;
  std::mutex mutex_;
  std::condition_variable ended_;
};

// Runs tasks on `Pool`, which has num_threads() and Schedule(function). Handlers run on that pool's threads themselves,
// so waiting for a scheduled task could deadlock: instead the caller and its helpers claim tasks from one counter, and
// wait only for tasks already claimed by a running thread. A helper that starts late finds no task left and returns;
// the state that it reads outlives the call.
template <typename Pool>
class PoolParallel : public Parallel {
 public:
  explicit PoolParallel(Pool& pool, WorkerHooks hooks = {})
      : pool_(pool), num_workers_(workers_of(pool.num_threads())), hooks_(hooks) {}

  long num_workers() const override { return num_workers_; }

  void run(const Loop* loops, long num_loops) const noexcept override {
    std::shared_ptr<Claims> claims;
    try {
      claims = std::make_shared<Claims>(loops, num_loops, num_workers_, hooks_);
      for (long worker = 1; worker < claims->useful_workers(); ++worker)
        pool_.Schedule([claims, worker] { claims->work(worker); });
    } catch (...) {  // out of memory: fewer helpers, or none
      if (!claims) {
        Claims own(loops, num_loops, num_workers_, hooks_);
        return own.work(0);
      }
    }
    claims->work(0);
    claims->wait_for_all();
  }

 private:
  static long workers_of(long threads) {
    const long limit = worker_limit().load();
    return threads < 1 || limit < 1 ? 1 : threads < limit ? threads : limit;
  }

  Pool& pool_;
  const long num_workers_;
  const WorkerHooks hooks_;
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_CORE_POOL_H_
