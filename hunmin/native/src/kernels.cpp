// All kernels; compiled once for each instruction set, with LEVEL as the end of every exported name.
#include "encoder.h"
#include "matmul.h"
#include "many.h"
#include "decode.h"
#include "fingerprint.h"
