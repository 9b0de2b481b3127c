// Learns new classes with ONNX Runtime's C interface: Android's NDK, iOS, or Linux on a board.
// Headers and library: the Android archive or iOS framework of ONNX Runtime 1.17 or newer.
// The tests compile this file and run it.
#include <onnxruntime_c_api.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum Function { BACKBONE, INITIAL_HEAD, ADAPT, PREDICT, FUNCTIONS };
static const char* const FILES[] = {"backbone", "initial_head", "adapt", "predict"};

// What the bundle's manifest.json says: image_shape, feature_size, inner_lr and inner_steps.
typedef struct {
  int64_t height, width, channels, feature_size;
  float inner_lr;
  int32_t inner_steps;
} Settings;

typedef struct {
  Settings settings;
  const OrtApi* ort;
  OrtEnv* env;
  OrtMemoryInfo* memory;
  OrtSession* sessions[FUNCTIONS];
} FewShot;

typedef struct {
  const char* name;
  ONNXTensorElementDataType type;
  const void* values;
  size_t bytes;
  int64_t shape[4];
  size_t rank;  // 0: a scalar
} Input;

typedef struct {
  const char* name;
  float* values;
  size_t count;
} Output;

// 0 if a call went well. Else its message is shown, and released.
static int failed(const FewShot* model, OrtStatus* status) {
  if (status == NULL) return 0;
  fprintf(stderr, "ONNX Runtime: %s\n", model->ort->GetErrorMessage(status));
  model->ort->ReleaseStatus(status);
  return 1;
}

// Releases all that was opened, also where opening failed half way.
void close_model(FewShot* model) {
  for (int i = 0; i < FUNCTIONS; ++i) {
    if (model->sessions[i]) model->ort->ReleaseSession(model->sessions[i]);
  }
  if (model->memory) model->ort->ReleaseMemoryInfo(model->memory);
  if (model->env) model->ort->ReleaseEnv(model->env);
  memset(model, 0, sizeof *model);
}

// 0 if the four files of a bundle's folder onnx are open.
int open_model(FewShot* model, const char* bundle, Settings settings) {
  memset(model, 0, sizeof *model);
  model->settings = settings;
  model->ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!model->ort) return 1;  // the library is older than its headers
  OrtSessionOptions* options = NULL;
  int wrong = failed(model, model->ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "anil", &model->env)) ||
              failed(model, model->ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault,
                                                            &model->memory)) ||
              failed(model, model->ort->CreateSessionOptions(&options));
  for (int i = 0; i < FUNCTIONS && !wrong; ++i) {
    char file[4096];
    snprintf(file, sizeof file, "%s/onnx/%s.onnx", bundle, FILES[i]);
    wrong = failed(model, model->ort->CreateSession(model->env, file, options, &model->sessions[i]));
  }
  if (options) model->ort->ReleaseSessionOptions(options);
  if (wrong) close_model(model);
  return wrong;
}

// Runs a function and copies what it returns. Everything made here is released here.
static int run(FewShot* model, enum Function function, const Input* inputs, size_t input_count,
               const Output* outputs, size_t output_count) {
  const OrtApi* ort = model->ort;
  OrtValue *values[6] = {0}, *results[2] = {0};
  const char *input_names[6], *output_names[2];
  int wrong = 0;
  for (size_t i = 0; i < input_count; ++i) input_names[i] = inputs[i].name;
  for (size_t i = 0; i < output_count; ++i) output_names[i] = outputs[i].name;
  for (size_t i = 0; i < input_count && !wrong; ++i) {
    // The tensor is a view of the caller's memory; Run only reads it.
    wrong = failed(model, ort->CreateTensorWithDataAsOrtValue(
                              model->memory, (void*)inputs[i].values, inputs[i].bytes,
                              inputs[i].shape, inputs[i].rank, inputs[i].type, &values[i]));
  }
  wrong = wrong || failed(model, ort->Run(model->sessions[function], NULL, input_names,
                                          (const OrtValue* const*)values, input_count,
                                          output_names, output_count, results));
  for (size_t i = 0; i < output_count && !wrong; ++i) {
    OrtTensorTypeAndShapeInfo* info = NULL;
    size_t count = 0;
    void* data = NULL;
    wrong = failed(model, ort->GetTensorTypeAndShape(results[i], &info)) ||
            failed(model, ort->GetTensorShapeElementCount(info, &count)) ||
            failed(model, ort->GetTensorMutableData(results[i], &data)) ||
            count != outputs[i].count;
    if (info) ort->ReleaseTensorTypeAndShapeInfo(info);
    if (!wrong) memcpy(outputs[i].values, data, count * sizeof(float));
  }
  for (size_t i = 0; i < output_count; ++i) {
    if (results[i]) ort->ReleaseValue(results[i]);
  }
  for (size_t i = 0; i < input_count; ++i) {
    if (values[i]) ort->ReleaseValue(values[i]);
  }
  return wrong;
}

static Input floats(const char* name, const float* values, int64_t rows, int64_t columns) {
  size_t count = (size_t)rows * (size_t)(columns ? columns : 1);
  return (Input){name, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, values, count * sizeof(float),
                 {rows, columns}, columns ? 2 : 1};
}

// Features [count, feature_size] of images [count, height, width, channels].
int compute_features(FewShot* model, const uint8_t* images, int64_t count, float* features) {
  const Settings* s = &model->settings;
  size_t bytes = (size_t)(count * s->height * s->width * s->channels);
  Input image = {"image", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, images, bytes,
                 {count, s->height, s->width, s->channels}, 4};
  Output output = {"features", features, (size_t)(count * s->feature_size)};
  return run(model, BACKBONE, &image, 1, &output, 1);
}

// Fits a head to rows of features and their classes, 0 to ways - 1: kernel [feature_size, ways] and
// bias [ways]. Keep both: they are everything that was learned.
int learn(FewShot* model, const float* features, const int32_t* labels, int64_t rows, int32_t ways,
          float* kernel, float* bias) {
  const Settings* s = &model->settings;
  size_t kernel_size = (size_t)(s->feature_size * ways), bias_size = (size_t)ways;
  Input number = {"ways", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, &ways, sizeof ways, {0}, 0};
  Output initial[] = {{"kernel", kernel, kernel_size}, {"bias", bias, bias_size}};
  if (run(model, INITIAL_HEAD, &number, 1, initial, 2)) return 1;
  Input inputs[] = {
      floats("features", features, rows, s->feature_size),
      {"labels", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, labels, (size_t)rows * sizeof *labels,
       {rows}, 1},
      floats("kernel", kernel, s->feature_size, ways),
      floats("bias", bias, ways, 0),
      {"learning_rate", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &s->inner_lr, sizeof s->inner_lr,
       {0}, 0},
      {"steps", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, &s->inner_steps, sizeof s->inner_steps,
       {0}, 0},
  };
  Output adapted[] = {{"adapted_kernel", kernel, kernel_size}, {"adapted_bias", bias, bias_size}};
  return run(model, ADAPT, inputs, 6, adapted, 2);
}

// The probability of each class, [count, ways], for rows of features.
int predict(FewShot* model, const float* features, int64_t count, const float* kernel,
            const float* bias, int32_t ways, float* probabilities) {
  Input inputs[] = {floats("features", features, count, model->settings.feature_size),
                    floats("kernel", kernel, model->settings.feature_size, ways),
                    floats("bias", bias, ways, 0)};
  Output output = {"probabilities", probabilities, (size_t)(count * ways)};
  return run(model, PREDICT, inputs, 3, &output, 1);
}
