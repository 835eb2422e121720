// Handlers of norms.
#include "handlers.h"

namespace ryot {
namespace {

ffi::Error norm_forward(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer residual, Floats scale, Floats bias, AnyOut y,
                        AnyOut s, FloatsOut statistics, float epsilon, int64_t centre) {
  Check check("norm");
  check.require(has_rank(x, 2), "x[N,D]");
  if (!check.ok()) return check.error();
  NormArgs args = {};
  args.rows = x.dimensions()[0], args.width = x.dimensions()[1];
  const ffi::DataType scalar = widest_scalar({&x, &residual, &*y, &*s});
  for (const AnyBuffer* buffer : {&x, &residual, &*y, &*s}) check.number(*buffer, scalar);
  check.shape_or_absent(residual, {args.rows, args.width}, "a residual of the shape of x");
  check.shape(scale, {args.width}, "scale[D]");
  check.shape_or_absent(bias, {args.width}, "bias[D]");
  check.shape(*y, {args.rows, args.width}, "y[N,D]");
  check.shape_or_absent(*s, {args.rows, args.width}, "s[N,D]");
  check.shape(*statistics, {args.rows, 2}, "statistics[N,2]");
  args.centre = centre != 0, args.epsilon = epsilon;
  args.x = tensor(x), args.residual = tensor(residual), args.scale = scale.typed_data(), args.bias = data_or_null(bias);
  args.y = tensor(*y), args.s = tensor(*s), args.statistics = statistics->typed_data();
  return launch(pool, scalar, check, &Kernels::norm_forward, args);
}

ffi::Error norm_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer s, Floats scale, Floats statistics, AnyBuffer ds,
                         AnyOut dx, FloatsOut dscale, FloatsOut dbias, int64_t centre) {
  Check check("norm");
  check.require(has_rank(s, 2), "s[N,D]");
  if (!check.ok()) return check.error();
  NormArgs args = {};
  args.rows = s.dimensions()[0], args.width = s.dimensions()[1];
  const ffi::DataType scalar = widest_scalar({&dy, &s, &ds, &*dx});
  for (const AnyBuffer* buffer : {&dy, &s, &ds, &*dx}) check.number(*buffer, scalar);
  check.shape(dy, {args.rows, args.width}, "dy[N,D]");
  check.shape(scale, {args.width}, "scale[D]");
  check.shape(statistics, {args.rows, 2}, "statistics[N,2]");
  check.shape_or_absent(ds, {args.rows, args.width}, "ds[N,D]");
  check.shape(*dx, {args.rows, args.width}, "dx[N,D]");
  check.shape(*dscale, {args.width}, "dscale[D]");
  check.shape_or_absent(*dbias, {args.width}, "dbias[D]");
  args.centre = centre != 0;
  args.y = tensor(dy), args.s = tensor(s), args.scale = scale.typed_data(), args.statistics = statistics.typed_data();
  args.ds = tensor(ds), args.dx = tensor(*dx), args.dscale = dscale->typed_data(), args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::norm_backward, args);
}

}  // namespace
}  // namespace ryot

RYOT_HANDLER(norm_forward,
             "x residual scale bias -> y s statistics | epsilon centre");
RYOT_HANDLER(norm_backward,
             "dy s scale statistics ds -> dx dscale dbias | centre");
