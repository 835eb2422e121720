// The handler of AdamW.
#include <vector>

#include "handlers.h"

namespace ryot {
namespace {

// `numbers` are those that change from step to step: gradient_scale, rate, first_correction, second_correction. Of
// `arrays` there are four a leaf: all parameters, then all gradients, first moments, second moments; `updated` are
// three a leaf.
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

RYOT_HANDLER(adamw,
             "numbers decays arrays... -> norm updated... | clip_norm b1 b2 epsilon");
