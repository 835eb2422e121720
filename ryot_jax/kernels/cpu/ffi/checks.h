// Parts shared by handlers: buffers, checks of their types and shapes, and the call of a kernel.
//
// An operand or result of shape [0] is absent.
#ifndef RYOT_KERNELS_CPU_FFI_CHECKS_H_
#define RYOT_KERNELS_CPU_FFI_CHECKS_H_

#include <initializer_list>
#include <string>

#include "../core/pool.h"
#include "../core/targets.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace ryot {

using ffi::AnyBuffer;
using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Booleans = ffi::Buffer<ffi::PRED>;
using Words = ffi::Buffer<ffi::U32>;
using AnyOut = ffi::Result<AnyBuffer>;
using FloatsOut = ffi::Result<Floats>;
using IntegersOut = ffi::Result<Integers>;
using Shape = std::initializer_list<long>;

template <typename Buffer>
bool absent(const Buffer& buffer) {
  return buffer.dimensions().size() == 1 && buffer.dimensions()[0] == 0;
}

// Collects the errors of a call; the first one is reported.
class Check {
 public:
  explicit Check(const char* kernel) : kernel_(kernel) {}

  void require(bool condition, const char* rule) {
    if (!condition && error_.empty()) error_ = std::string("ryot_jax: ") + kernel_ + " takes " + rule;
  }
  template <typename Buffer>
  void shape(const Buffer& buffer, Shape wanted, const char* rule) {
    const auto dims = buffer.dimensions();
    bool same = dims.size() == wanted.size();
    for (size_t i = 0; same && i < wanted.size(); ++i) same = dims[i] == wanted.begin()[i];
    require(same, rule);
  }
  template <typename Buffer>
  void shape_or_absent(const Buffer& buffer, Shape wanted, const char* rule) {
    if (!absent(buffer)) shape(buffer, wanted, rule);
  }
  // Requires float32, or bfloat16 if the Scalar is.
  void number(const AnyBuffer& buffer, ffi::DataType scalar) {
    const ffi::DataType type = buffer.element_type();
    require(absent(buffer) || type == ffi::F32 || (type == ffi::BF16 && scalar == ffi::BF16), "float32 or bfloat16");
  }
  bool ok() const { return error_.empty(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(error_); }

 private:
  const char* kernel_;
  std::string error_;
};

inline Tensor tensor(const AnyBuffer& buffer) {
  return {absent(buffer) ? nullptr : buffer.untyped_data(), buffer.element_type() == ffi::BF16};
}
inline float* data_or_null(const Floats& buffer) { return absent(buffer) ? nullptr : buffer.typed_data(); }
inline bool has_rank(const AnyBuffer& buffer, size_t rank) { return buffer.dimensions().size() == rank; }

// Norms compute in float32 whatever the arrays hold; if one of these is bfloat16, that target's kernels are needed.
inline ffi::DataType widest_scalar(std::initializer_list<const AnyBuffer*> buffers) {
  for (const AnyBuffer* buffer : buffers)
    if (buffer->element_type() == ffi::BF16) return ffi::BF16;
  return ffi::F32;
}

inline ffi::Error no_target(bool bfloat16) {
  return ffi::Error(ffi::ErrorCode::kUnimplemented, std::string("ryot_jax: the CPU kernels for ") +
                                                        (bfloat16 ? "bfloat16" : "float32") +
                                                        " need a processor with " + least_needs(bfloat16));
}

// Runs one kernel of the best target for `scalar`.
template <typename Args>
ffi::Error launch(ffi::ThreadPool& pool, ffi::DataType scalar, const Check& check,
                  Status (*Kernels::*kernel)(const Parallel&, const Args&), const Args& args) {
  if (!check.ok()) return check.error();
  if (scalar != ffi::F32 && scalar != ffi::BF16)
    return ffi::Error::InvalidArgument("ryot_jax: the CPU kernels take float32 or bfloat16");
  const Target* const target = best_target(scalar == ffi::BF16);
  if (!target) return no_target(scalar == ffi::BF16);
  switch ((target->kernels.*kernel)(PoolParallel<ffi::ThreadPool>(pool, target->hooks), args)) {
    case Status::kDone: return ffi::Error::Success();
    case Status::kNoMemory: break;
  }
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "ryot_jax: no memory for scratch");
}

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_FFI_CHECKS_H_
