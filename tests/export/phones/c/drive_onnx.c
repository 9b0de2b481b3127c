// Learns with examples/c/onnx.c: images and labels in, kernel, bias and probabilities out.
#include "onnx.c"

#include <stdlib.h>

static void* read_all(const char* path, size_t bytes) {
  void* memory = malloc(bytes);
  FILE* file = fopen(path, "rb");
  if (!file || fread(memory, 1, bytes, file) != bytes) exit(2);
  fclose(file);
  return memory;
}

// drive BUNDLE IMAGES LABELS OUTPUT rows ways height width channels features rate steps
int main(int count, char** given) {
  if (count != 13) return 2;
  int64_t rows = atoi(given[5]);
  int32_t ways = atoi(given[6]);
  Settings settings = {atoi(given[7]),  atoi(given[8]),         atoi(given[9]),
                       atoi(given[10]), (float)atof(given[11]), atoi(given[12])};
  size_t size = (size_t)settings.feature_size;
  size_t pixels = (size_t)(settings.height * settings.width * settings.channels);
  uint8_t* images = read_all(given[2], (size_t)rows * pixels);
  int32_t* labels = read_all(given[3], (size_t)rows * sizeof(int32_t));
  float* features = malloc((size_t)rows * size * sizeof(float));
  float* kernel = malloc(size * (size_t)ways * sizeof(float));
  float* bias = malloc((size_t)ways * sizeof(float));
  float* probabilities = malloc((size_t)(rows * ways) * sizeof(float));

  FewShot model;
  if (open_model(&model, given[1], settings)) return 1;
  int wrong = compute_features(&model, images, rows, features) ||
              learn(&model, features, labels, rows, ways, kernel, bias) ||
              predict(&model, features, rows, kernel, bias, ways, probabilities);
  close_model(&model);
  if (!wrong) {
    FILE* file = fopen(given[4], "wb");
    fwrite(kernel, sizeof(float), size * (size_t)ways, file);
    fwrite(bias, sizeof(float), (size_t)ways, file);
    fwrite(probabilities, sizeof(float), (size_t)(rows * ways), file);
    fclose(file);
  }
  free(images), free(labels), free(features), free(kernel), free(bias), free(probabilities);
  return wrong;
}
