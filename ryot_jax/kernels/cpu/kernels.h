// The table of kernels that each instruction set provides, and the shapes that they take.
//
// All arrays are dense, row-major float32. Results do not depend on which thread does what: every
// sum is taken in an order that the shapes and the number of threads fix.
#ifndef RYOT_KERNELS_CPU_KERNELS_H_
#define RYOT_KERNELS_CPU_KERNELS_H_

#include <cstdint>

#include "parallel.h"

namespace ryot {

// loss_sum = sum over rows n with target[n] >= 0 of  log(sum_v exp(x[n].w[v])) - x[n].w[target[n]]
// and its gradients. dx and dw may both be null: then only the loss is computed.
struct LinearCrossEntropyArgs {
  long rows, width, vocabulary;
  const float* x;         // [rows, width]
  const float* w;         // [vocabulary, width]
  const int32_t* target;  // [rows]; below zero: the row is ignored
  float* loss_sum;        // [1]
  float* dx;              // [rows, width]
  float* dw;              // [vocabulary, width]
};

// Causal softmax(q k^T / sqrt(head_width)) v for every sequence and head.
struct AttentionArgs {
  long batch, length, heads, head_width;
  const float *q, *k, *v;  // [batch, length, heads, head_width]
  float* o;                // forward: written; backward: read (same shape as q)
  float* log_sum_exp;      // [batch, heads, length]; forward: written; backward: read
  const float* d_o;        // backward only, as are the three below
  float *dq, *dk, *dv;
};

// Each kernel returns false when it could not get its scratch memory.
struct Kernels {
  bool (*linear_cross_entropy)(const Parallel&, const LinearCrossEntropyArgs&);
  bool (*attention_forward)(const Parallel&, const AttentionArgs&);
  bool (*attention_backward)(const Parallel&, const AttentionArgs&);
};

extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_KERNELS_H_
