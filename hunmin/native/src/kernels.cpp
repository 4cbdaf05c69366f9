// All kernels; compiled once for each instruction set, with LEVEL as the end of every exported name.
#include "matmul.h"
#include "decode.h"
