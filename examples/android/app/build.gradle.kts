plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "org.example.fewshot"
    compileSdk = 35

    defaultConfig {
        applicationId = "org.example.fewshot"
        minSdk = 28 // ImageDecoder; ONNX Runtime needs 24, LiteRT 1.4 needs 21
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
    }
    // Stored as they are, so that the app can map them into memory.
    androidResources { noCompress += listOf("onnx", "tflite") }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation("androidx.activity:activity-ktx:1.9.3")
    // One of the two: leave out the other with its file, OnnxFewShot.kt or LitertFewShot.kt.
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.28.0")
    implementation("com.google.ai.edge.litert:litert:1.4.2")
    implementation("com.google.ai.edge.litert:litert-api:1.4.2")
}
