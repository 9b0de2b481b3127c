// Declarations of what the program in docs/howto/boards.md uses of TensorFlow Lite Micro, as its
// headers have them, to compile it without the library.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor {
  union {
    float* f;
    int32_t* i32;
    int8_t* int8;
    char* raw;
  } data;
  size_t bytes;
};

namespace tflite {

struct Model;
const Model* GetModel(const void* buffer);

class MicroOpResolver {};

template <unsigned int most>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddAdd();
  TfLiteStatus AddBatchMatMul();
  TfLiteStatus AddCast();
  TfLiteStatus AddConv2D();
  TfLiteStatus AddDepthwiseConv2D();
  TfLiteStatus AddDequantize();
  TfLiteStatus AddDiv();
  TfLiteStatus AddExp();
  TfLiteStatus AddLess();
  TfLiteStatus AddLog();
  TfLiteStatus AddLogSoftmax();
  TfLiteStatus AddMaximum();
  TfLiteStatus AddMinimum();
  TfLiteStatus AddMul();
  TfLiteStatus AddNeg();
  TfLiteStatus AddNotEqual();
  TfLiteStatus AddReshape();
  TfLiteStatus AddSelectV2();
  TfLiteStatus AddSoftmax();
  TfLiteStatus AddSqrt();
  TfLiteStatus AddSquare();
  TfLiteStatus AddStridedSlice();
  TfLiteStatus AddSub();
  TfLiteStatus AddSum();
  TfLiteStatus AddTranspose();
  TfLiteStatus AddWhile();
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& operators, uint8_t* arena, size_t size);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(size_t index);
  TfLiteTensor* output(size_t index);
};

}  // namespace tflite
