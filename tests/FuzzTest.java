import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A short run of tests/Fuzz.java over its corpus; a long one is for a person to start. */
class FuzzTest {
    @Test
    void eightSecondsOfCoverageGuidedInputFindNothing(@TempDir Path dir) throws Exception {
        var corpus = dir.resolve("corpus");
        var copy = new ProcessBuilder("cp", "-r", "tests/corpus", corpus.toString()).start();
        assertEquals(0, copy.waitFor());
        var out = dir.resolve("out");
        var fuzz = new ProcessBuilder(System.getenv("KNOCK_JBANG"), "tests/Fuzz.java", "8",
                corpus.toString())
                .redirectErrorStream(true).redirectOutput(out.toFile()).start();
        int exit = fuzz.waitFor();
        var said = Files.readString(out);
        assertEquals(0, exit, said);
        var done = Pattern.compile("Done (\\d+) runs").matcher(said);
        assertTrue(done.find() && Long.parseLong(done.group(1)) > 10_000, said);
    }
}
