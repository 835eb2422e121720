// What the pool of threads has to bear: several calls at once, more workers than cores, no memory, targets with hooks, and
// threads that wait without using a processor.
#ifndef RYOT_TESTS_KERNELS_CPU_THREADS_H_
#define RYOT_TESTS_KERNELS_CPU_THREADS_H_

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <string>

#include "support.h"

namespace {

// ---- Memory that runs out ---------------------------------------------------------------------------------------

// Linked with --wrap=aligned_alloc: the call after `allocations_left` others fails, once.
thread_local long allocations_left = -1;  // negative: none fails
thread_local bool is_new_failing = false;
std::atomic<long> refused_news{0};

bool take_allocation() {
  if (allocations_left < 0) return true;
  return allocations_left-- > 0;
}

// A pool that is out of memory: no task can be scheduled.
class FullPool {
 public:
  long num_threads() const { return 3; }
  template <typename Task>
  void Schedule(Task&&) {
    throw std::bad_alloc();
  }
};

struct DenseCall {
  DenseCall(bool bf16, long rows, long inputs, long outputs)
      : x(rows * inputs, bf16), w(inputs * outputs, false), y(rows * outputs, bf16), dx(rows * inputs, bf16),
        dw(inputs * outputs, false) {
    args.rows = rows, args.inputs = inputs, args.outputs = outputs;
    args.x = x.bytes.data(), args.w = w.floats(), args.y = y.tensor();
    args.dx = dx.bytes.data(), args.dw = dw.floats();
  }
  Array x, w, y, dx, dw;
  ryot::DenseArgs args = {};
};

void failing_allocations(const ryot::Target& target, bool bf16) {
  DenseCall call(bf16, 97, 34, 33);
  Pool pool(2);
  const ryot::PoolParallel<Pool> parallel(pool, target.hooks);
  for (bool forward : {true, false}) {
    const auto kernel = forward ? target.kernels.dense_forward : target.kernels.dense_backward;
    long failed = 0;
    for (bool done = false; !done && failed < 100; ++failed) {
      allocations_left = failed;
      done = is_done(kernel(parallel, call.args));
      const bool refused = allocations_left < 0;
      allocations_left = -1;
      require(done != refused, "a kernel without scratch memory says so");
    }
    require(failed > 3 && failed < 100, "each allocation of a kernel is checked");
  }
}

// The same result where no helper can be had, because the pool refuses or `new` does.
void without_helpers(const ryot::Target& target, bool bf16) {
  DenseCall call(bf16, 97, 34, 33);
  Pool pool(3);
  require(is_done(target.kernels.dense_forward(ryot::PoolParallel<Pool>(pool, target.hooks), call.args)), "dense runs");
  const std::vector<char> expected = call.y.bytes;
  std::fill(call.y.bytes.begin(), call.y.bytes.end(), static_cast<char>(0xff));
  FullPool full;
  require(is_done(target.kernels.dense_forward(ryot::PoolParallel<FullPool>(full, target.hooks), call.args)) &&
              call.y.bytes == expected,
          "the caller does all tasks where the pool takes none");
  std::fill(call.y.bytes.begin(), call.y.bytes.end(), static_cast<char>(0xff));
  const ryot::PoolParallel<Pool> parallel(pool, target.hooks);
  const long before = refused_news;
  is_new_failing = true;
  const bool done = is_done(target.kernels.dense_forward(parallel, call.args));
  is_new_failing = false;
  require(done && call.y.bytes == expected, "the caller does all tasks where there is no memory to share them");
  require(refused_news > before, "memory to share tasks was asked for");
}

// ---- Several calls on one pool ----------------------------------------------------------------------------------

// Calls of two threads from outside, and of the pool's own threads, at once; and more workers than cores.
void calls_at_once(const ryot::Target& target, bool bf16) {
  for (int threads : {2, 16}) {
    Pool pool(threads);
    DenseCall alone(bf16, 230, 34, 33);
    require(is_done(target.kernels.dense_forward(ryot::PoolParallel<Pool>(pool, target.hooks), alone.args)), "runs");
    constexpr int kCalls = 6, kRounds = 5;
    std::deque<DenseCall> calls;
    for (int i = 0; i < kCalls; ++i) {
      calls.emplace_back(bf16, 230, 34, 33);
      calls.back().x.bytes = alone.x.bytes, calls.back().w.bytes = alone.w.bytes;
    }
    std::atomic<int> ended{0}, done{0};
    const auto run = [&](int i) {
      for (int round = 0; round < kRounds; ++round)
        done += is_done(target.kernels.dense_forward(ryot::PoolParallel<Pool>(pool, target.hooks), calls[i].args));
      ++ended;
    };
    std::thread first([&] { run(0); }), second([&] { run(1); });
    for (int i = 2; i < kCalls; ++i) pool.Schedule([&run, i] { run(i); });
    first.join(), second.join();
    while (ended < kCalls) std::this_thread::yield();
    require(done == kCalls * kRounds, "calls at once all end well");
    for (const DenseCall& call : calls) require(call.y.bytes == alone.y.bytes, "calls at once do not mix");
  }
}

void threads(const ryot::Target& target, bool bf16) {
  failing_allocations(target, bf16);
  without_helpers(target, bf16);
  calls_at_once(target, bf16);
}

// ---- Waiting and hooks ------------------------------------------------------------------------------------------

void sleep_for(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// Whether every other thread of this process sleeps. One that spins, or yields the processor, is always ready to run.
bool others_sleep() {
  const std::string own = std::to_string(gettid());
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    if (thread.path().filename() == own) continue;
    std::ifstream file(thread.path() / "stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    const size_t name_end = text.rfind(')');  // then a blank and the state
    if (name_end != std::string::npos && text.compare(name_end, 3, ") R") == 0) return false;
  }
  return true;
}

// While one worker's task takes its time, those that wait for it leave the processor alone.
void waiting_uses_no_processor() {
  Pool pool(3);
  static bool is_asleep;
  const ryot::Loop slow = {1,
                           [](void*, long, long, long) {
                             for (int i = 0; i < 100 && !is_asleep; ++i) sleep_for(20), is_asleep = others_sleep();
                           },
                           nullptr};
  const ryot::Loop quick = {2, [](void*, long, long, long) {}, nullptr};
  const ryot::Loop loops[] = {slow, quick};
  ryot::PoolParallel<Pool>(pool).run(loops, 2);
  require(is_asleep, "threads that wait do not spin for ever");
}

// A thread that claims a task writes no line that threads which wait are reading.
void counters_are_apart() {
  using ryot::Counters;
  constexpr size_t kBytes = 64;  // of a cache line
  const auto counters = std::make_unique<Counters>();
  const auto line = [](const std::atomic<long>& counter) { return reinterpret_cast<uintptr_t>(&counter) / kBytes; };
  const uintptr_t claimed = line(counters->claimed), done = line(counters->done), sleepers = line(counters->sleepers);
  require(claimed != done && done != sleepers && claimed != sleepers, "the counters of a call share no cache line");
  // What follows them in memory, such as the mutex, starts on a line of its own too.
  require(sizeof(Counters) % kBytes == 0 && alignof(Counters) % kBytes == 0, "nothing else is on the counters' lines");
}

std::atomic<int> entered{0}, left{0}, outside{0};
thread_local bool is_inside = false;

// Every thread that does a task has entered before and leaves after, and no other thread does.
void hooks_run_around_tasks() {
  const ryot::WorkerHooks hooks = {[] { ++entered, is_inside = true; }, [] { ++left, is_inside = false; }};
  Pool pool(3);
  const ryot::Loop loop = {50,
                           [](void*, long, long, long) {
                             outside += !is_inside;
                             sleep_for(1);
                           },
                           nullptr};
  ryot::PoolParallel<Pool>(pool, hooks).run(&loop, 1);
  for (int i = 0; i < 1000 && left < entered; ++i) sleep_for(1);
  require(entered >= 1 && entered <= 3 && left == entered && outside == 0, "hooks run around a worker's tasks");
  const int before = entered;
  const ryot::Loop nothing = {0, loop.body, nullptr};
  ryot::PoolParallel<Pool>(pool, hooks).run(&nothing, 1);
  require(entered == before, "no hook runs without a task");
}

void a_limit_holds_for_later_calls() {
  Pool pool(3);
  const long before = ryot::worker_limit();
  for (const long limit : {before, 2L, 0L}) {
    ryot::worker_limit() = limit;
    const long workers = ryot::PoolParallel<Pool>(pool).num_workers();
    require(workers == (limit == before ? 3 : limit == 2 ? 2 : 1), "calls take as many threads as the limit allows");
  }
  ryot::worker_limit() = before;
}

}  // namespace

extern "C" void* __real_aligned_alloc(size_t alignment, size_t size);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t size) {
  return take_allocation() ? __real_aligned_alloc(alignment, size) : nullptr;
}

void* operator new(size_t size) {
  if (is_new_failing) {
    ++refused_news;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, std::align_val_t alignment) {
  if (is_new_failing) {
    ++refused_news;
    throw std::bad_alloc();
  }
  const size_t line = static_cast<size_t>(alignment);
  if (void* memory = __real_aligned_alloc(line, (size + line - 1) / line * line)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

#endif  // RYOT_TESTS_KERNELS_CPU_THREADS_H_
