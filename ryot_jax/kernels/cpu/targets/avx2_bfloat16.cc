// AVX2 with FMA for arrays of bfloat16.
#define RYOT_SCALAR "scalar/bfloat16_stored.h"
#include "avx2.cc"
