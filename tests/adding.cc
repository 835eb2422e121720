// Lists the targets that it is linked with, best first, and takes a product with each that this processor runs: for
// tests/test_adding.py, which links it with one target that is added and one that is there.
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/targets.h"

namespace {

// One thread.
class Serial final : public ryot::Parallel {
 public:
  long num_workers() const override { return 1; }
  void run(const ryot::Loop* loops, long num_loops) const noexcept override {
    for (long i = 0; i < num_loops; ++i)
      for (long task = 0; task < loops[i].num_tasks; ++task) loops[i].body(loops[i].context, task, -1, 0);
  }
};

// The largest error of x w for [rows, inputs] and [inputs, outputs].
double product_error(const ryot::Target& target) {
  const long rows = 13, inputs = 7, outputs = 33;
  std::vector<float> x(rows * inputs), w(inputs * outputs), y(rows * outputs);
  for (long i = 0; i < rows * inputs; ++i) x[i] = std::sin(1.0f + i);
  for (long i = 0; i < inputs * outputs; ++i) w[i] = std::cos(2.0f * i);
  ryot::DenseArgs args = {};
  args.rows = rows, args.inputs = inputs, args.outputs = outputs;
  args.x = x.data(), args.w = w.data(), args.y = {y.data(), false};
  if (target.kernels.dense_forward(Serial(), args) != ryot::Status::kDone) return INFINITY;
  double error = 0;
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < outputs; ++j) {
      double sum = 0;
      for (long k = 0; k < inputs; ++k) sum += double(x[i * inputs + k]) * w[k * outputs + j];
      error = std::fmax(error, std::fabs(sum - y[i * outputs + j]));
    }
  return error;
}

}  // namespace

int main() {
  bool good = true;
  for (const ryot::Target* target = ryot::all_targets(); target; target = target->next) {
    std::printf("%s\n", target->name);
    if (!target->missing()) good = product_error(*target) < 1e-5 && good;
    ryot::cap_targets(target->level);
    const ryot::Target* best = ryot::best_target(target->bfloat16);
    good = good && (best == target || target->missing());
  }
  return good ? 0 : 1;
}
