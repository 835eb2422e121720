// The table of handlers, which XLA calls and Python reads.
//
// RYOT_HANDLER(norm_backward, "dy s scale -> dx dscale | centre") makes a handler ryot_norm_backward of the function
// norm_backward(pool, operands..., results..., attributes...), and lists it. How XLA binds it follows from the
// function's parameters; the names are those of operands, results and attributes in order, whose number the compiler
// checks. A name that ends with "..." stands for any number of arrays.
#ifndef RYOT_KERNELS_CPU_FFI_HANDLERS_H_
#define RYOT_KERNELS_CPU_FFI_HANDLERS_H_

#include <algorithm>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "checks.h"
#include "table.h"

namespace ryot {

// ---- What a parameter of a handler's function is ----------------------------------------------------------------

enum class Part { kOperand, kResult, kAttribute, kContext };

template <typename Parameter>
struct PartOf {
  static constexpr Part value = std::is_arithmetic_v<Parameter> ? Part::kAttribute : Part::kOperand;
};
template <typename Buffer>
struct PartOf<ffi::Result<Buffer>> {
  static constexpr Part value = Part::kResult;
  using type = Buffer;
};
template <>
struct PartOf<ffi::RemainingRets> {
  static constexpr Part value = Part::kResult;
};
template <>
struct PartOf<ffi::ThreadPool> {
  static constexpr Part value = Part::kContext;
};

// The number of names in a part of `names`.
constexpr int count_names(const char* names, Part part) {
  int count = 0;
  Part here = Part::kOperand;
  for (const char* p = names; *p; ++p) {
    if (*p == '|') here = Part::kAttribute;
    if (*p == '>') here = Part::kResult;
    const bool is_name = *p != ' ' && *p != '-' && *p != '>' && *p != '|';
    const bool begins = is_name && (p == names || p[-1] == ' ');
    count += begins && here == part;
  }
  return count;
}

// ---- Binding ----------------------------------------------------------------------------------------------------

// Iterates over the names of the attributes.
class AttributeNames {
 public:
  explicit AttributeNames(const char* names) : rest_(names) { rest_.erase(0, std::min(rest_.find('|'), rest_.size())); }
  std::string next() {
    const size_t begin = rest_.find_first_not_of(" |"), end = std::min(rest_.find(' ', begin), rest_.size());
    const std::string name = rest_.substr(begin, end - begin);
    rest_.erase(0, end);
    return name;
  }

 private:
  std::string rest_;
};

template <typename Function, typename Binding>
auto bind_parameters(Function* function, Binding&& binding, AttributeNames&) {
  return std::move(binding).To(function);
}
template <typename Parameter, typename... Rest, typename Function, typename Binding>
auto bind_parameters(Function* function, Binding&& binding, AttributeNames& names) {
  if constexpr (PartOf<Parameter>::value == Part::kContext) {
    return bind_parameters<Rest...>(function, std::move(binding).template Ctx<Parameter>(), names);
  } else if constexpr (std::is_same_v<Parameter, ffi::RemainingArgs>) {
    return bind_parameters<Rest...>(function, std::move(binding).RemainingArgs(), names);
  } else if constexpr (std::is_same_v<Parameter, ffi::RemainingRets>) {
    return bind_parameters<Rest...>(function, std::move(binding).RemainingRets(), names);
  } else if constexpr (PartOf<Parameter>::value == Part::kResult) {
    using Buffer = typename PartOf<Parameter>::type;
    return bind_parameters<Rest...>(function, std::move(binding).template Ret<Buffer>(), names);
  } else if constexpr (PartOf<Parameter>::value == Part::kOperand) {
    return bind_parameters<Rest...>(function, std::move(binding).template Arg<Parameter>(), names);
  } else {
    return bind_parameters<Rest...>(function, std::move(binding).template Attr<Parameter>(names.next()), names);
  }
}

// Wraps a function to catch exceptions: none may cross into XLA. The error text fits into a string without allocation.
template <auto kFunction, typename... Parameters>
ffi::Error guarded(Parameters... parameters) noexcept {
  try {
    return kFunction(parameters...);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "ryot: no memory");
  } catch (...) {
    return ffi::Error(ffi::ErrorCode::kInternal, "ryot: failed");
  }
}

template <auto kFunction>
struct Bound;
template <typename... Parameters, ffi::Error (*kFunction)(Parameters...)>
struct Bound<kFunction> {
  static constexpr bool is_named_by(const char* names) {
    for (Part part : {Part::kOperand, Part::kResult, Part::kAttribute})
      if (((PartOf<Parameters>::value == part) + ...) != count_names(names, part)) return false;
    return true;
  }
  static auto handler(const char* names) {
    AttributeNames attributes(names);
    return bind_parameters<Parameters...>(&guarded<kFunction, Parameters...>, ffi::Ffi::Bind(), attributes);
  }
};

}  // namespace ryot

#define RYOT_HANDLER(function, names)                                                                    \
  static_assert(ryot::Bound<&ryot::function>::is_named_by(names), "names are those of the parameters");  \
  static XLA_FFI_Error* call_##function(XLA_FFI_CallFrame* frame) {                                      \
    static auto* const handler = ryot::Bound<&ryot::function>::handler(names).release();                 \
    return handler->Call(frame);                                                                         \
  }                                                                                                      \
  static ryot::Handler handler_##function = {"ryot_" #function, names, call_##function, nullptr};        \
  static const ryot::HandlerRegistration registration_##function(handler_##function)

#endif  // RYOT_KERNELS_CPU_FFI_HANDLERS_H_
