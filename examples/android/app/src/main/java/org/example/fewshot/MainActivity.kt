// Learns classes from pictures of the gallery, and says which of them another picture shows.
package org.example.fewshot

import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts.GetContent
import androidx.activity.result.contract.ActivityResultContracts.GetMultipleContents
import java.util.concurrent.Executors

class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor() // all below runs there, in order
    private lateinit var settings: Settings
    private lateinit var model: FewShot
    private val examples = LinkedHashMap<String, MutableList<FloatArray>>() // features of each class
    private var head: Head? = null

    private val name by lazy { EditText(this).apply { hint = "Name of a class" } }
    private val text by lazy { TextView(this) }

    private val pickExamples = registerForActivityResult(GetMultipleContents()) { pictures ->
        val label = name.text.toString().trim()
        if (pictures.isNotEmpty() && label.isNotEmpty()) work { addExamples(label, pictures) }
    }
    private val pickPicture = registerForActivityResult(GetContent()) { picture ->
        if (picture != null) work { classify(picture) }
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val page = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            addView(name)
            addView(button("Add pictures of this class") { pickExamples.launch("image/*") })
            addView(button("What is this?") { pickPicture.launch("image/*") })
            addView(text)
        }
        setContentView(page)
        work {
            val read = { file: String -> assets.open("bundle/$file").use { it.readBytes() } }
            settings = Settings.read(String(read("manifest.json")))
            model = OnnxFewShot(settings, read)
            "Name a class and add pictures of it. Two classes make a model."
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { if (::model.isInitialized) model.close() }
        worker.shutdown()
    }

    private fun addExamples(label: String, pictures: List<Uri>): String {
        val images = pictures.map { readPixels(contentResolver, it, settings.image) }
        examples.getOrPut(label) { mutableListOf() } += model.features(images)
        if (examples.size >= 2) {
            val rows = examples.values.flatten().toTypedArray()
            val labels = examples.values.flatMapIndexed { i, own -> List(own.size) { i } }
            head = model.learn(rows, labels.toIntArray(), examples.size)
        }
        return examples.map { (own, rows) -> "$own: ${rows.size}" }.joinToString("\n")
    }

    private fun classify(picture: Uri): String {
        val learned = head ?: return "Add pictures of two classes first."
        val image = readPixels(contentResolver, picture, settings.image)
        val probabilities = model.predict(model.features(listOf(image)), learned).single()
        return examples.keys.zip(probabilities.toList()).sortedByDescending { it.second }
            .joinToString("\n") { (own, probability) -> "%.0f %% %s".format(100 * probability, own) }
    }

    /** Runs a task in the background and shows its text, or what went wrong. */
    private fun work(task: () -> String) = worker.execute {
        val shown = try { task() } catch (error: Exception) { error.toString() }
        runOnUiThread { text.text = shown }
    }

    private fun button(label: String, action: () -> Unit) =
        Button(this).apply { text = label; setOnClickListener { action() } }
}
