// Threads, arrays and findings of the exercise program.
#ifndef RYOT_TESTS_KERNELS_CPU_SUPPORT_H_
#define RYOT_TESTS_KERNELS_CPU_SUPPORT_H_

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "core/pool.h"
#include "core/targets.h"

namespace {

// As much of XLA's pool as the kernels use.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { loop(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  long num_threads() const { return static_cast<long>(threads_.size()); }
  void Schedule(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }
  std::vector<std::thread> threads_;
  std::deque<std::function<void()>> tasks_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
};

std::mt19937 generator(0);

// An array of floats or bfloat16s; both start as random numbers around 1.
struct Array {
  std::vector<char> bytes;
  bool bfloat16;
  Array(long size, bool bf16) : bytes(size * (bf16 ? 2 : 4)), bfloat16(bf16) {
    std::normal_distribution<float> normal;
    for (long i = 0; i < size; ++i) {
      const float value = normal(generator);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t high = static_cast<uint16_t>(bits >> 16);
      if (bf16) std::memcpy(&bytes[2 * i], &high, 2);
      else std::memcpy(&bytes[4 * i], &bits, 4);
    }
  }
  ryot::Tensor tensor() { return {bytes.data(), bfloat16}; }
  float* floats() { return reinterpret_cast<float*>(bytes.data()); }
  uint32_t* words() { return reinterpret_cast<uint32_t*>(bytes.data()); }
  int32_t* integers() { return reinterpret_cast<int32_t*>(bytes.data()); }
};

int failures = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  ++failures;
}

bool is_done(ryot::Status status) { return status == ryot::Status::kDone; }

// Where the outputs of one thread are written, as float32, instead of being compared with those of three; or null.
std::FILE* record = nullptr;

void write_down(const char* name, const std::vector<Array*>& outputs) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::vector<char>& bytes = outputs[i]->bytes;
    std::vector<float> numbers(bytes.size() / (outputs[i]->bfloat16 ? 2 : 4));
    for (size_t j = 0; j < numbers.size(); ++j) {
      uint32_t bits = 0;
      if (outputs[i]->bfloat16) std::memcpy(reinterpret_cast<char*>(&bits) + 2, &bytes[2 * j], 2);
      else std::memcpy(&bits, &bytes[4 * j], 4);
      std::memcpy(&numbers[j], &bits, 4);
    }
    std::fprintf(record, "%s %zu %zu\n", name, i, numbers.size());
    std::fwrite(numbers.data(), 4, numbers.size(), record);
  }
}

// Runs `kernel` with 1 thread and with 3, and compares the outputs, and what it updates, which starts as it is here.
template <typename Kernel>
void same_with_threads(const char* name, std::vector<Array*> outputs,
                       const ryot::Target& target, const Kernel& kernel, std::vector<Array*> updated = {}) {
  std::vector<std::vector<char>> first, start;
  for (Array* array : updated) start.push_back(array->bytes);
  const size_t written = outputs.size();
  outputs.insert(outputs.end(), updated.begin(), updated.end());
  for (int threads : {1, 3}) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      std::vector<char>& bytes = outputs[i]->bytes;
      if (i < written) std::fill(bytes.begin(), bytes.end(), static_cast<char>(0xff));
      else std::copy(start[i - written].begin(), start[i - written].end(), bytes.begin());
    }
    Pool pool(threads);
    const bool done = is_done(kernel(ryot::PoolParallel<Pool>(pool, target.hooks)));
    bool same = done;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (threads == 1) first.push_back(outputs[i]->bytes);
      else same = same && first[i] == outputs[i]->bytes;
    }
    if (record && done) return write_down(name, outputs);
    if (!same) {
      std::printf("%s: %s\n", name, done ? "another result with 3 threads" : "failed");
      ++failures;
    }
  }
}

}  // namespace

#endif  // RYOT_TESTS_KERNELS_CPU_SUPPORT_H_
