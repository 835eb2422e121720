// The rows of the table of handlers, in the layout that Python reads.
#ifndef RYOT_KERNELS_CPU_FFI_TABLE_H_
#define RYOT_KERNELS_CPU_FFI_TABLE_H_

#include "xla/ffi/api/c_api.h"

namespace ryot {

struct Handler {
  const char* name;
  const char* names;  // of operands, results and attributes: see ffi/handlers.h
  XLA_FFI_Error* (*call)(XLA_FFI_CallFrame*);
  const Handler* next;
};

// The head of the list.
const Handler* all_handlers();

class HandlerRegistration {
 public:
  explicit HandlerRegistration(Handler& handler);
};

}  // namespace ryot

#endif  // RYOT_KERNELS_CPU_FFI_TABLE_H_
