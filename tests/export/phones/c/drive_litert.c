// Learns with examples/c/litert.c: images and labels in, kernel, bias and probabilities out.
#include "litert.c"

#include <stdlib.h>

static void* read_all(const char* path, size_t bytes) {
  void* memory = malloc(bytes);
  FILE* file = fopen(path, "rb");
  if (!file || fread(memory, 1, bytes, file) != bytes) exit(2);
  fclose(file);
  return memory;
}

// drive FILE IMAGES LABELS OUTPUT rows ways width pixels features rate steps
int main(int count, char** given) {
  if (count != 12) return 2;
  size_t rows = (size_t)atoi(given[5]), width = (size_t)atoi(given[7]);
  size_t pixels = (size_t)atoi(given[8]), size = (size_t)atoi(given[9]);
  int32_t ways = atoi(given[6]);
  uint8_t* images = read_all(given[2], rows * pixels);
  int32_t* labels = read_all(given[3], rows * sizeof(int32_t));
  float* features = malloc(rows * size * sizeof(float));
  float* kernel = malloc(size * width * sizeof(float));
  float* bias = malloc(width * sizeof(float));
  float* probabilities = malloc(rows * width * sizeof(float));

  FewShot model;
  if (open_model(&model, given[1], (float)atof(given[10]), atoi(given[11]))) return 1;
  int wrong = 0;
  for (size_t i = 0; i < rows && !wrong; ++i) {
    wrong = compute_features(&model, images + i * pixels, pixels, features + i * size, size);
  }
  wrong = wrong || learn(&model, features, labels, rows, size, ways, width, kernel, bias);
  for (size_t i = 0; i < rows && !wrong; ++i) {
    wrong = predict(&model, features + i * size, size, kernel, bias, width,
                    probabilities + i * width);
  }
  close_model(&model);
  if (!wrong) {
    FILE* file = fopen(given[4], "wb");
    fwrite(kernel, sizeof(float), size * width, file);
    fwrite(bias, sizeof(float), width, file);
    fwrite(probabilities, sizeof(float), rows * width, file);
    fclose(file);
  }
  free(images), free(labels), free(features), free(kernel), free(bias), free(probabilities);
  return wrong;
}
