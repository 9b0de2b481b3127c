package org.json;

/** What the sample uses of Android's class of this name, declared to compile it. */
public class JSONObject {
    public JSONObject(String json) {}

    public JSONArray getJSONArray(String name) { return null; }

    public double getDouble(String name) { return 0; }

    public int getInt(String name) { return 0; }
}
