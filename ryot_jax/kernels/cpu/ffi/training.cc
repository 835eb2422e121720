// Handlers of the loss, the embedding's gradient, and AdamW.
#include <vector>

#include "handlers.h"

namespace ryot {
namespace {

struct LossOptions {
  float label_smoothing, z_loss, soft_cap;
};

void check_linear_cross_entropy(Check& check, const AnyBuffer& x, const Floats& w, const Integers& targets,
                                const Floats& losses, LossOptions options, LinearCrossEntropyArgs& args) {
  const char* rule = "x[N,D], w[V,D], targets[N], and gives losses[N]";
  check.require(has_rank(x, 2) && w.dimensions().size() == 2, rule);
  if (!check.ok()) return;
  args.rows = x.dimensions()[0], args.width = x.dimensions()[1], args.vocabulary = w.dimensions()[0];
  check.shape(w, {args.vocabulary, args.width}, rule);
  check.shape(targets, {args.rows}, rule);
  check.shape(losses, {args.rows}, rule);
  check.require(args.vocabulary > 0, "a vocabulary that is not empty");
  args.label_smoothing = options.label_smoothing, args.z_loss = options.z_loss, args.soft_cap = options.soft_cap;
  args.x = x.untyped_data(), args.w = w.typed_data(), args.target = targets.typed_data();
  args.losses = losses.typed_data();
}

ffi::Error linear_cross_entropy_loss(ffi::ThreadPool pool, AnyBuffer x, Floats w, Integers targets, FloatsOut losses,
                                     float label_smoothing, float z_loss, float soft_cap) {
  Check check("linear_cross_entropy");
  LinearCrossEntropyArgs args = {};
  check_linear_cross_entropy(check, x, w, targets, *losses, {label_smoothing, z_loss, soft_cap}, args);
  return launch(pool, x.element_type(), check, &Kernels::linear_cross_entropy, args);
}

ffi::Error linear_cross_entropy_gradients(ffi::ThreadPool pool, AnyBuffer x, Floats w, Integers targets, Floats weights,
                                          FloatsOut losses, AnyOut dx, FloatsOut dw, float label_smoothing,
                                          float z_loss, float soft_cap) {
  Check check("linear_cross_entropy");
  LinearCrossEntropyArgs args = {};
  check_linear_cross_entropy(check, x, w, targets, *losses, {label_smoothing, z_loss, soft_cap}, args);
  check.shape_or_absent(weights, {args.rows}, "weights[N]");
  check.shape(*dx, {args.rows, args.width}, "dx[N,D]");
  check.require(dx->element_type() == x.element_type(), "dx of the type of x");
  check.shape(*dw, {args.vocabulary, args.width}, "dw[V,D]");
  args.weights = data_or_null(weights), args.dx = dx->untyped_data(), args.dw = dw->typed_data();
  return launch(pool, x.element_type(), check, &Kernels::linear_cross_entropy, args);
}

ffi::Error embedding_backward(ffi::ThreadPool pool, AnyBuffer dy, Integers tokens, FloatsOut dtable) {
  Check check("embedding");
  check.require(has_rank(dy, 2) && dtable->dimensions().size() == 2, "dy[N,D], and gives dtable[V,D]");
  if (!check.ok()) return check.error();
  EmbeddingArgs args = {};
  args.rows = dy.dimensions()[0], args.width = dy.dimensions()[1], args.vocabulary = dtable->dimensions()[0];
  check.shape(tokens, {args.rows}, "tokens[N]");
  check.shape(*dtable, {args.vocabulary, args.width}, "dy[N,D], and gives dtable[V,D]");
  check.number(dy, dy.element_type());
  args.dy = tensor(dy), args.tokens = tokens.typed_data(), args.dtable = dtable->typed_data();
  return launch(pool, dy.element_type(), check, &Kernels::embedding_backward, args);
}

// `numbers` change from step to step: gradient_scale, rate, first_correction, second_correction. `arrays` are four per
// leaf: all parameters, then all gradients, first moments, second moments; `updated` are three per leaf.
ffi::Error adamw(ffi::ThreadPool pool, Floats numbers, Floats decays, ffi::RemainingArgs arrays, FloatsOut norm,
                 ffi::RemainingRets updated, float clip_norm, float b1, float b2, float epsilon) {
  Check check("adamw");
  check.shape(numbers, {4}, "four numbers");
  check.shape(*norm, {1}, "one norm");
  const size_t count = decays.dimensions().size() == 1 ? static_cast<size_t>(decays.dimensions()[0]) : 0;
  check.require(arrays.size() == 4 * count && updated.size() == 3 * count,
                "a weight decay, four arrays and three results a leaf");
  if (!check.ok()) return check.error();
  std::vector<AdamWLeaf> leaves(count);
  for (size_t i = 0; i < count; ++i) {
    const float* read[4];
    float* written[3];
    long size = 0;
    for (size_t kind = 0; kind < 4; ++kind) {
      auto array = arrays.get<Floats>(kind * count + i);
      if (array.has_error()) return array.error();
      if (kind == 0) size = static_cast<long>(array->element_count());
      check.require(static_cast<long>(array->element_count()) == size, "arrays of one size a leaf");
      read[kind] = array->typed_data();
    }
    for (size_t kind = 0; kind < 3; ++kind) {
      auto array = updated.get<Floats>(kind * count + i);
      if (array.has_error()) return array.error();
      check.require(static_cast<long>((*array)->element_count()) == size, "results of the size of the leaf");
      written[kind] = (*array)->typed_data();
    }
    leaves[i] = {size,    decays.typed_data()[i], read[0],    read[1],   read[2],
                 read[3], written[0],             written[1], written[2]};
  }
  const float* number = numbers.typed_data();
  const AdamWArgs args = {leaves.data(), static_cast<long>(count), number[0], clip_norm, number[1], b1, b2, epsilon,
                          number[2],     number[3],                norm->typed_data()};
  return launch(pool, ffi::F32, check, &Kernels::adamw, args);
}

}  // namespace
}  // namespace ryot

RYOT_HANDLER(linear_cross_entropy_loss,
             "x w targets -> losses | label_smoothing z_loss soft_cap");
RYOT_HANDLER(linear_cross_entropy_gradients,
             "x w targets weights -> losses dx dw | label_smoothing z_loss soft_cap");
RYOT_HANDLER(embedding_backward,
             "dy tokens -> dtable");
RYOT_HANDLER(adamw,
             "numbers decays arrays... -> norm updated... | clip_norm b1 b2 epsilon");
