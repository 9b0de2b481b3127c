package org.json;

/** What the sample uses of Android's class of this name, declared to compile it. */
public class JSONArray {
    public int getInt(int index) { return 0; }
}
