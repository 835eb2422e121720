// AVX-512 for arrays of bfloat16, for processors without AVX512-BF16 or with a slow one.
#define RYOT_SCALAR "scalar/bfloat16_stored.h"
#include "avx512.cc"
