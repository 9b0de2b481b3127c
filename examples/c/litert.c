// Learns new classes with LiteRT's C interface: Android's NDK, iOS, or Linux on a board.
// Headers and library: LiteRT 2.3. It runs litert/model_static.tflite, whose shapes are fixed.
// The tests compile this file and run it.
#include <litert/c/litert_common.h>
#include <litert/c/litert_compiled_model.h>
#include <litert/c/litert_environment.h>
#include <litert/c/litert_model.h>
#include <litert/c/litert_options.h>
#include <litert/c/litert_tensor_buffer.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MOST_INPUTS = 6, MOST_OUTPUTS = 5 };

typedef struct {
  LiteRtParamIndex index;
  LiteRtSignature signature;
  LiteRtParamIndex input_count, output_count;
  LiteRtTensorBuffer inputs[MOST_INPUTS], outputs[MOST_OUTPUTS];
} Function;

typedef struct {
  float inner_lr;       // of the bundle's manifest.json
  int32_t inner_steps;  // of the manifest
  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtCompiledModel compiled;
  Function features, initial_head, adapt, predict;
} FewShot;

// 0 if a call went well. Else its status, of litert_common.h, is shown.
static int failed(LiteRtStatus status) {
  if (status == kLiteRtStatusOk) return 0;
  fprintf(stderr, "LiteRT: status %d\n", (int)status);
  return 1;
}

static int find_signature(FewShot* model, const char* name, Function* function) {
  LiteRtParamIndex count = 0;
  if (failed(LiteRtGetNumModelSignatures(model->model, &count))) return 1;
  for (function->index = 0; function->index < count; ++function->index) {
    const char* key = NULL;
    if (failed(LiteRtGetModelSignature(model->model, function->index, &function->signature)) ||
        failed(LiteRtGetSignatureKey(function->signature, &key))) {
      return 1;
    }
    if (!strcmp(key, name)) return 0;
  }
  fprintf(stderr, "The file has no signature %s\n", name);
  return 1;
}

// A buffer for each input and output, used again in every call.
static int open_function(FewShot* model, const char* name, Function* function) {
  if (find_signature(model, name, function) ||
      failed(LiteRtGetNumSignatureInputs(function->signature, &function->input_count)) ||
      failed(LiteRtGetNumSignatureOutputs(function->signature, &function->output_count)) ||
      function->input_count > MOST_INPUTS || function->output_count > MOST_OUTPUTS) {
    return 1;
  }
  LiteRtTensor tensor;
  LiteRtRankedTensorType type;
  LiteRtTensorBufferRequirements needs;
  for (LiteRtParamIndex i = 0; i < function->input_count; ++i) {
    if (failed(LiteRtGetSignatureInputTensorByIndex(function->signature, i, &tensor)) ||
        failed(LiteRtGetRankedTensorType(tensor, &type)) ||
        failed(LiteRtGetCompiledModelInputBufferRequirements(model->compiled, function->index, i,
                                                             &needs)) ||
        failed(LiteRtCreateManagedTensorBufferFromRequirements(model->environment, &type, needs,
                                                               &function->inputs[i]))) {
      return 1;
    }
  }
  for (LiteRtParamIndex i = 0; i < function->output_count; ++i) {
    if (failed(LiteRtGetSignatureOutputTensorByIndex(function->signature, i, &tensor)) ||
        failed(LiteRtGetRankedTensorType(tensor, &type)) ||
        failed(LiteRtGetCompiledModelOutputBufferRequirements(model->compiled, function->index, i,
                                                              &needs)) ||
        failed(LiteRtCreateManagedTensorBufferFromRequirements(model->environment, &type, needs,
                                                               &function->outputs[i]))) {
      return 1;
    }
  }
  return 0;
}

static void close_function(Function* function) {
  for (int i = 0; i < MOST_INPUTS; ++i) {
    if (function->inputs[i]) LiteRtDestroyTensorBuffer(function->inputs[i]);
  }
  for (int i = 0; i < MOST_OUTPUTS; ++i) {
    if (function->outputs[i]) LiteRtDestroyTensorBuffer(function->outputs[i]);
  }
}

// Releases all that was opened, also where opening failed half way.
void close_model(FewShot* model) {
  close_function(&model->features);
  close_function(&model->initial_head);
  close_function(&model->adapt);
  close_function(&model->predict);
  if (model->compiled) LiteRtDestroyCompiledModel(model->compiled);
  if (model->model) LiteRtDestroyModel(model->model);
  if (model->environment) LiteRtDestroyEnvironment(model->environment);
  memset(model, 0, sizeof *model);
}

// 0 if litert/model_static.tflite is open.
int open_model(FewShot* model, const char* file, float inner_lr, int32_t inner_steps) {
  memset(model, 0, sizeof *model);
  model->inner_lr = inner_lr;
  model->inner_steps = inner_steps;
  LiteRtOptions options = NULL;
  int wrong =
      failed(LiteRtCreateEnvironment(0, NULL, &model->environment)) ||
      failed(LiteRtCreateModelFromFile(model->environment, file, &model->model)) ||
      failed(LiteRtCreateOptions(&options)) ||
      failed(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu)) ||
      failed(LiteRtCreateCompiledModel(model->environment, model->model, options,
                                       &model->compiled)) ||
      open_function(model, "features", &model->features) ||
      open_function(model, "initial_head", &model->initial_head) ||
      open_function(model, "adapt", &model->adapt) ||
      open_function(model, "predict", &model->predict);
  if (options) LiteRtDestroyOptions(options);
  if (wrong) close_model(model);
  return wrong;
}

// Copies values into an input. Bytes beyond them get the value `rest`: 0xff makes labels of -1.
static int set(Function* function, const char* name, const void* values, size_t bytes, int rest) {
  for (LiteRtParamIndex i = 0; i < function->input_count; ++i) {
    const char* found = NULL;
    if (failed(LiteRtGetSignatureInputName(function->signature, i, &found))) return 1;
    if (strcmp(found, name)) continue;
    size_t space = 0;
    void* memory = NULL;
    if (failed(LiteRtGetTensorBufferPackedSize(function->inputs[i], &space)) || bytes > space ||
        failed(LiteRtLockTensorBuffer(function->inputs[i], &memory,
                                      kLiteRtTensorBufferLockModeWrite))) {
      return 1;
    }
    memset(memory, rest, space);
    memcpy(memory, values, bytes);
    return failed(LiteRtUnlockTensorBuffer(function->inputs[i]));
  }
  return 1;
}

static int run(FewShot* model, Function* function) {
  return failed(LiteRtRunCompiledModel(model->compiled, function->index, function->input_count,
                                       function->inputs, function->output_count,
                                       function->outputs));
}

// Copies the first bytes of an output.
static int get(Function* function, const char* name, void* values, size_t bytes) {
  for (LiteRtParamIndex i = 0; i < function->output_count; ++i) {
    const char* found = NULL;
    if (failed(LiteRtGetSignatureOutputName(function->signature, i, &found))) return 1;
    if (strcmp(found, name)) continue;
    size_t space = 0;
    void* memory = NULL;
    if (failed(LiteRtGetTensorBufferPackedSize(function->outputs[i], &space)) || bytes > space ||
        failed(LiteRtLockTensorBuffer(function->outputs[i], &memory,
                                      kLiteRtTensorBufferLockModeRead))) {
      return 1;
    }
    memcpy(values, memory, bytes);
    return failed(LiteRtUnlockTensorBuffer(function->outputs[i]));
  }
  return 1;
}

// Features [feature_size] of one image [height, width, channels].
int compute_features(FewShot* model, const uint8_t* image, size_t image_bytes, float* features,
                     size_t feature_size) {
  return set(&model->features, "image", image, image_bytes, 0) || run(model, &model->features) ||
         get(&model->features, "features", features, feature_size * sizeof(float));
}

// Fits a head to rows of features and their classes, 0 to ways - 1. The head has the width of the
// file, `width` classes: kernel [feature_size, width], bias [width]. Those not in use have kernel 0
// and bias -1e30, as `initial_head` returns them.
int learn(FewShot* model, const float* features, const int32_t* labels, size_t rows,
          size_t feature_size, int32_t ways, size_t width, float* kernel, float* bias) {
  Function *head = &model->initial_head, *adapt = &model->adapt;
  size_t kernel_bytes = feature_size * width * sizeof(float), bias_bytes = width * sizeof(float);
  return set(head, "ways", &ways, sizeof ways, 0) || run(model, head) ||
         get(head, "kernel", kernel, kernel_bytes) || get(head, "bias", bias, bias_bytes) ||
         set(adapt, "features", features, rows * feature_size * sizeof(float), 0) ||
         set(adapt, "labels", labels, rows * sizeof(int32_t), 0xff) ||
         set(adapt, "kernel", kernel, kernel_bytes, 0) ||
         set(adapt, "bias", bias, bias_bytes, 0) ||
         set(adapt, "learning_rate", &model->inner_lr, sizeof(float), 0) ||
         set(adapt, "steps", &model->inner_steps, sizeof(int32_t), 0) || run(model, adapt) ||
         get(adapt, "adapted_kernel", kernel, kernel_bytes) ||
         get(adapt, "adapted_bias", bias, bias_bytes);
}

// The probability of each class for one row of features, [width]; 0 for those not in use.
int predict(FewShot* model, const float* features, size_t feature_size, const float* kernel,
            const float* bias, size_t width, float* probabilities) {
  Function* function = &model->predict;
  return set(function, "features", features, feature_size * sizeof(float), 0) ||
         set(function, "kernel", kernel, feature_size * width * sizeof(float), 0) ||
         set(function, "bias", bias, width * sizeof(float), 0) || run(model, function) ||
         get(function, "probabilities", probabilities, width * sizeof(float));
}
