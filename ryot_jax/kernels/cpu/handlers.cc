// XLA FFI handlers: check the shapes, take XLA's own thread pool, and call the kernels of the best
// instruction set that this processor has.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace ryot {
namespace {

// Runs tasks on XLA's intra-op pool. Handlers run on that pool's threads themselves, so waiting for a
// scheduled task could wait for ever: instead the caller and its helpers claim tasks from one counter, and
// the caller waits only for tasks that a running helper has already claimed. A helper that starts late finds
// nothing left and leaves.
class PoolParallel : public Parallel {
 public:
  explicit PoolParallel(ffi::ThreadPool& pool) : pool_(pool) {}
  long num_threads() const override { return pool_.num_threads() < 1 ? 1 : pool_.num_threads(); }
  void run(long num_tasks, Body body, void* context) const override {
    const long helpers = (num_tasks < num_threads() ? num_tasks : num_threads()) - 1;
    if (helpers < 1) {
      for (long task = 0; task < num_tasks; ++task) body(context, task);
      return;
    }
    auto shared = std::make_shared<Claims>();
    const std::function<void()> work = [shared, num_tasks, body, context] {
      for (long task; (task = shared->next.fetch_add(1)) < num_tasks;) {
        body(context, task);
        shared->done.fetch_add(1, std::memory_order_release);
      }
    };
    for (long i = 0; i < helpers; ++i) pool_.Schedule(std::function<void()>(work));
    work();
    for (long spins = 0; shared->done.load(std::memory_order_acquire) < num_tasks; ++spins)
      if (spins > 10000) std::this_thread::yield();
  }

 private:
  struct Claims {
    std::atomic<long> next{0}, done{0};
  };
  ffi::ThreadPool& pool_;
};

const Kernels* best_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    return &kAvx512Kernels;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2Kernels;
#endif
  return nullptr;
}

using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using FloatsOut = ffi::Result<ffi::Buffer<ffi::F32>>;

ffi::Error finish(bool ok) {
  return ok ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "ryot_jax: no memory for scratch");
}
ffi::Error unsupported() {
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "ryot_jax: the CPU kernels need AVX2 and FMA");
}
ffi::Error bad_shapes(const char* what) { return ffi::Error::InvalidArgument(what); }

bool same_shape(const Floats& a, const Floats& b) {
  const auto x = a.dimensions(), y = b.dimensions();
  return std::equal(x.begin(), x.end(), y.begin(), y.end());
}

ffi::Error run_linear_cross_entropy(ffi::ThreadPool pool, Floats x, Floats w, Integers target, float* loss,
float* dx,
                                    float* dw) {
  const Kernels* kernels = best_kernels();
  if (!kernels) return unsupported();
  const auto xs = x.dimensions(), ws = w.dimensions(), ts = target.dimensions();
  if (xs.size() != 2 || ws.size() != 2 || ts.size() != 1 || xs[1] != ws[1] || xs[0] != ts[0])
    return bad_shapes("linear_cross_entropy takes x[N,D], w[V,D], target[N]");
  return finish(kernels->linear_cross_entropy(
      PoolParallel(pool),
      {xs[0], xs[1], ws[0], x.typed_data(), w.typed_data(), target.typed_data(), loss, dx, dw}));
}

ffi::Error linear_cross_entropy_loss(ffi::ThreadPool pool, Floats x, Floats w, Integers target, FloatsOut
loss) {
  return run_linear_cross_entropy(pool, x, w, target, loss->typed_data(), nullptr, nullptr);
}
ffi::Error linear_cross_entropy_gradients(ffi::ThreadPool pool, Floats x, Floats w, Integers target, FloatsOut
loss,
                                          FloatsOut dx, FloatsOut dw) {
  return run_linear_cross_entropy(pool, x, w, target, loss->typed_data(), dx->typed_data(), dw->typed_data());
}

AttentionArgs attention_args(Floats q, Floats k, Floats v) {
  const auto s = q.dimensions();
  AttentionArgs args = {};
  args.batch = s[0], args.length = s[1], args.heads = s[2], args.head_width = s[3];
  args.q = q.typed_data(), args.k = k.typed_data(), args.v = v.typed_data();
  return args;
}

ffi::Error attention_forward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, FloatsOut o, FloatsOut
log_sum_exp) {
  const Kernels* kernels = best_kernels();
  if (!kernels) return unsupported();
  if (q.dimensions().size() != 4 || !same_shape(q, k) || !same_shape(q, v))
    return bad_shapes("attention takes q, k, v of one shape [B,T,H,K]");
  AttentionArgs args = attention_args(q, k, v);
  args.o = o->typed_data(), args.log_sum_exp = log_sum_exp->typed_data();
  return finish(kernels->attention_forward(PoolParallel(pool), args));
}

ffi::Error attention_backward(ffi::ThreadPool pool, Floats q, Floats k, Floats v, Floats o, Floats
log_sum_exp,
                              Floats d_o, FloatsOut dq, FloatsOut dk, FloatsOut dv) {
  const Kernels* kernels = best_kernels();
  if (!kernels) return unsupported();
  AttentionArgs args = attention_args(q, k, v);
  args.o = o.typed_data(), args.log_sum_exp = log_sum_exp.typed_data(), args.d_o = d_o.typed_data();
  args.dq = dq->typed_data(), args.dk = dk->typed_data(), args.dv = dv->typed_data();
  return finish(kernels->attention_backward(PoolParallel(pool), args));
}

}  // namespace
}  // namespace ryot

#pragma GCC visibility push(default)  // what follows is all that Python sees of this library

// "avx512", "avx2", or "" where this processor has neither.
extern "C" const char* ryot_instruction_set() {
  const ryot::Kernels* kernels = ryot::best_kernels();
#if defined(__x86_64__)
  if (kernels == &ryot::kAvx512Kernels) return "avx512";
  if (kernels == &ryot::kAvx2Kernels) return "avx2";
#endif
  return kernels ? "?" : "";
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(ryot_linear_cross_entropy_loss, ryot::linear_cross_entropy_loss,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                  .Arg<ryot::Integers>().Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ryot_linear_cross_entropy_gradients, ryot::linear_cross_entropy_gradients,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                  .Arg<ryot::Integers>().Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ryot_attention_forward, ryot::attention_forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                  .Arg<ryot::Floats>().Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ryot_attention_backward, ryot::attention_backward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                  .Arg<ryot::Floats>().Arg<ryot::Floats>().Arg<ryot::Floats>().Arg<ryot::Floats>()
                                  .Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
#pragma GCC visibility pop
