// All ops, for the target being compiled.
#ifndef RYOT_KERNELS_CPU_OPS_ALL_H_
#define RYOT_KERNELS_CPU_OPS_ALL_H_

#include "adamw.h"
#include "attention_backward.h"
#include "attention_forward.h"
#include "decode_step.h"
#include "dense_backward.h"
#include "dense_forward.h"
#include "embedding.h"
#include "linear_cross_entropy.h"
#include "norm.h"

#endif  // RYOT_KERNELS_CPU_OPS_ALL_H_
