// Handlers of norms and of dense layers.
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

ffi::Error check_dense(Check& check, const AnyBuffer& x, const Floats& w, int64_t activation, DenseArgs& args) {
  check.require(has_rank(x, 2) && w.dimensions().size() == 2, "x[N,K], w[K,M]");
  check.require(activation >= 0 && activation <= 3, "activation 0 to 3");
  if (!check.ok()) return check.error();
  args.rows = x.dimensions()[0], args.inputs = x.dimensions()[1], args.outputs = w.dimensions()[1];
  args.activation = static_cast<Activation>(activation);
  args.x = x.untyped_data(), args.w = w.typed_data();
  check.shape(w, {args.inputs, args.outputs}, "x[N,K], w[K,M]");
  check.require(args.activation != Activation::kSwiglu || args.outputs % 2 == 0, "an even M for swiglu");
  return ffi::Error::Success();
}

ffi::Error dense_forward(ffi::ThreadPool pool, AnyBuffer x, Floats w, Floats bias, AnyBuffer residual, AnyOut y,
                         AnyOut slopes, int64_t activation) {
  Check check("dense");
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, x, w, activation, args); error.failure()) return error;
  const ffi::DataType scalar = x.element_type();
  check.number(residual, scalar);
  check.number(*y, scalar);
  check.shape_or_absent(bias, {args.outputs}, "bias[M]");
  check.shape_or_absent(residual, {args.rows, args.width()}, "a residual of the shape of y");
  check.shape(*y, {args.rows, args.width()}, "y[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(*slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes->element_type() == scalar, "slopes of the type of x");
  args.bias = data_or_null(bias), args.residual = tensor(residual), args.y = tensor(*y);
  args.slopes = tensor(*slopes).data;
  return launch(pool, scalar, check, &Kernels::dense_forward, args);
}

ffi::Error dense_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, Floats w, AnyBuffer slopes,
                          AnyBuffer x_slopes, AnyOut dx, FloatsOut dw, FloatsOut dbias, int64_t activation) {
  Check check("dense");
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, x, w, activation, args); error.failure()) return error;
  const ffi::DataType scalar = x.element_type();
  check.number(dy, scalar);
  check.shape(dy, {args.rows, args.width()}, "dy[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes.element_type() == scalar, "slopes of the type of x");
  check.shape_or_absent(x_slopes, {args.rows, args.inputs}, "slopes of x of its shape");
  check.require(absent(x_slopes) || x_slopes.element_type() == scalar, "slopes of the type of x");
  check.shape(*dx, {args.rows, args.inputs}, "dx[N,K]");
  check.require(dx->element_type() == scalar, "dx of the type of x");
  check.shape(*dw, {args.inputs, args.outputs}, "dw[K,M]");
  check.shape_or_absent(*dbias, {args.outputs}, "dbias[M]");
  args.y = tensor(dy), args.slopes = tensor(slopes).data, args.x_slopes = tensor(x_slopes).data;
  args.dx = dx->untyped_data(), args.dw = dw->typed_data();
  args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::dense_backward, args);
}

// ---- With a norm in front ---------------------------------------------------------------------------------------

// `scalar` is the type in which the product runs; s may be wider.
void check_norm_dense(Check& check, const AnyBuffer& s, const Floats& scale, const Floats& statistics,
                      ffi::DataType scalar, NormArgs& norm) {
  check.number(s, scalar);
  check.require(has_rank(s, 2), "s[N,K]");
  if (!check.ok()) return;
  norm.rows = s.dimensions()[0], norm.width = s.dimensions()[1];
  check.shape(scale, {norm.width}, "scale[K]");
  check.shape(statistics, {norm.rows, 2}, "statistics[N,2]");
  norm.s = tensor(s), norm.scale = scale.typed_data(), norm.statistics = statistics.typed_data();
}

ffi::Error norm_dense_forward(ffi::ThreadPool pool, AnyBuffer s, Floats scale, Floats shift, Floats w, Floats bias,
                              AnyOut y, AnyOut slopes, FloatsOut statistics, int64_t activation, float epsilon,
                              int64_t centre) {
  Check check("norm_dense");
  const ffi::DataType scalar = y->element_type();
  NormArgs norm = {};
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, s, w, activation, args); error.failure()) return error;
  check_norm_dense(check, s, scale, *statistics, scalar, norm);
  check.shape_or_absent(shift, {args.inputs}, "shift[K]");
  check.shape_or_absent(bias, {args.outputs}, "bias[M]");
  check.shape(*y, {args.rows, args.width()}, "y[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(*slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes->element_type() == scalar, "slopes of the type of y");
  norm.bias = data_or_null(shift), norm.epsilon = epsilon, norm.centre = centre != 0;
  args.norm = &norm, args.bias = data_or_null(bias), args.y = tensor(*y), args.slopes = tensor(*slopes).data;
  return launch(pool, scalar, check, &Kernels::dense_forward, args);
}

ffi::Error norm_dense_backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer s, Floats scale, Floats shift,
                               Floats statistics, Floats w, AnyBuffer slopes, AnyBuffer ds, AnyOut dx,
                               FloatsOut dscale, FloatsOut dshift, FloatsOut dw, FloatsOut dbias, int64_t activation,
                               int64_t centre) {
  Check check("norm_dense");
  const ffi::DataType scalar = dy.element_type();
  NormArgs norm = {};
  DenseArgs args = {};
  if (ffi::Error error = check_dense(check, s, w, activation, args); error.failure()) return error;
  check_norm_dense(check, s, scale, statistics, scalar, norm);
  check.number(ds, scalar);
  check.shape_or_absent(shift, {args.inputs}, "shift[K]");
  check.shape(dy, {args.rows, args.width()}, "dy[N,M], half as wide for swiglu");
  if (args.activation != Activation::kNone) check.shape(slopes, {args.rows, args.outputs}, "slopes[N,M]");
  check.require(args.activation == Activation::kNone || slopes.element_type() == scalar, "slopes of the type of dy");
  check.shape_or_absent(ds, {args.rows, args.inputs}, "ds[N,K]");
  check.shape(*dx, {args.rows, args.inputs}, "dx[N,K]");
  check.require(dx->element_type() == s.element_type(), "dx of the type of s");
  check.shape(*dscale, {args.inputs}, "dscale[K]");
  check.shape_or_absent(*dshift, {args.inputs}, "dshift[K]");
  check.shape(*dw, {args.inputs, args.outputs}, "dw[K,M]");
  check.shape_or_absent(*dbias, {args.outputs}, "dbias[M]");
  norm.bias = data_or_null(shift), norm.centre = centre != 0, norm.ds = tensor(ds), norm.dx = tensor(*dx);
  norm.dscale = dscale->typed_data(), norm.dbias = data_or_null(*dshift);
  args.norm = &norm, args.y = tensor(dy), args.slopes = tensor(slopes).data;
  args.dw = dw->typed_data(), args.dbias = data_or_null(*dbias);
  return launch(pool, scalar, check, &Kernels::dense_backward, args);
}

}  // namespace
}  // namespace ryot

RYOT_HANDLER(norm_forward,
             "x residual scale bias -> y s statistics | epsilon centre");
RYOT_HANDLER(norm_backward,
             "dy s scale statistics ds -> dx dscale dbias | centre");
RYOT_HANDLER(dense_forward,
             "x w bias residual -> y slopes | activation");
RYOT_HANDLER(dense_backward,
             "dy x w slopes x_slopes -> dx dw dbias | activation");
RYOT_HANDLER(norm_dense_forward,
             "s scale shift w bias -> y slopes statistics | activation epsilon centre");
RYOT_HANDLER(norm_dense_backward,
             "dy s scale shift statistics w slopes ds -> dx dscale dshift dw dbias | activation centre");
