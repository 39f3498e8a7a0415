import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Stream;

import org.junit.jupiter.api.Test;

/** What the documents say about the files is so. */
class DocTest {
    private static final List<String> ROOMS =
            List.of("", "lib", "lib/server", "lib/client", "lib/proxy");

    private static List<Path> files(String directory, String suffix) throws IOException {
        try (var files = Files.list(Path.of(directory))) {
            return files.filter(file -> file.toString().endsWith(suffix)).map(Path::normalize)
                    .sorted().toList();
        }
    }

    /** Every Java file that is not a test. */
    private static List<Path> code() throws IOException {
        var code = new ArrayList<Path>();
        for (var room : ROOMS) {
            code.addAll(files(room, ".java"));
        }
        return code;
    }

    /** A script and all that its //SOURCES lines name. */
    private static List<Path> readingSet(Path script) throws IOException {
        var set = new ArrayList<>(List.of(script));
        for (var line : Files.readAllLines(script)) {
            if (line.startsWith("//SOURCES lib/")) {
                set.add(Path.of(line.substring("//SOURCES ".length())));
            }
        }
        return set;
    }

    @Test
    void theReadmesReadingSetsAreCounted() throws IOException {
        var rows = Pattern.compile("\\| `(knockknock[a-z-]*\\.java)`[^|]* \\| (\\d+) \\| "
                + "([0-9,]+) \\|")
                .matcher(Files.readString(Path.of("README.md"))).results().toList();
        assertEquals(files("", ".java").size(), rows.size());
        for (var row : rows) {
            int lines = 0;
            var set = readingSet(Path.of(row.group(1)));
            for (var file : set) {
                lines += Files.readAllLines(file).size();
            }
            assertEquals("%s: %d files, %,d lines".formatted(row.group(1), set.size(), lines),
                    "%s: %s files, %s lines".formatted(row.group(1), row.group(2), row.group(3)));
        }
    }

    @Test
    void theReadmeNamesEveryFileThatRuns() throws IOException {
        var readme = Files.readString(Path.of("README.md"));
        for (var file : List.of(code(), files("", ".sh"), files("", ".nft")).stream()
                .flatMap(List::stream).toList()) {
            assertTrue(readme.contains("`" + file + "`"), file.toString());
        }
    }

    @Test
    void everySourceThatAScriptNamesIsThereAndNoSideReadsTheOthers() throws IOException {
        for (var script : files("", ".java")) {
            var rooms = script.toString().matches("knockknock(-proxy)?\\.java")
                    ? "lib/(client/|proxy/)?" : "lib/(server/)?";
            for (var source : readingSet(script)) {
                assertTrue(Files.exists(source), script + " names " + source);
                assertTrue(source.equals(script)
                        || source.toString().matches(rooms + "[A-Z]\\w*\\.java"), script + " names "
                        + source);
            }
        }
        assertFalse(Files.readString(Path.of("knockknock-firewall.java")).contains("//DEPS"));
    }

    @Test
    void whatHasToBeReadStaysSmall() throws IOException {
        var firewall = readingSet(Path.of("knockknock-firewall.java"));
        var server = new TreeSet<>(readingSet(Path.of("knockknock-daemon.java")));
        server.addAll(firewall);
        assertSmall(150, List.of(Path.of("knockknock-firewall.java")));
        assertSmall(415, firewall);
        assertSmall(1810, server);
        assertSmall(1220, readingSet(Path.of("knockknock.java")));
        assertSmall(630, readingSet(Path.of("knockknock-genprofile.java")));
        assertTrue(Files.readAllLines(Path.of("README.md")).size() <= 210);
    }

    private static void assertSmall(int most, Collection<Path> files) throws IOException {
        long lines = codeLines(files);
        assertTrue(lines <= most, lines + " lines, of at most " + most + ": " + files);
    }

    /** Comments count; imports, JBang's directives and blank lines do not. */
    private static long codeLines(Collection<Path> files) throws IOException {
        long lines = 0;
        for (var file : files) {
            lines += Files.readAllLines(file).stream()
                    .filter(line -> !line.matches("\\s*|import .*|//.*")).count();
        }
        return lines;
    }

    @Test
    void noLineIsLongerThanAHundredColumnsAndNoFileThanFourHundredLines() throws IOException {
        for (var file : Stream.of(code(), files("", ".sh"), files("tests", ".java"))
                .flatMap(List::stream).toList()) {
            assertTrue(Files.readAllLines(file).size() <= 400, file.toString());
            for (var line : Files.readAllLines(file)) {
                assertTrue(line.length() <= 100 || line.startsWith("//"), file + ": " + line);
            }
        }
    }

    @Test
    void aStepOfTheProtocolStandsInTheCode() throws IOException {
        for (var part : List.of(List.of("## 5. Sender", "lib/client/KnockSender.java", "5"),
                List.of("### 6.2 Steps", "knockknock-daemon.java", "6"))) {
            assertTrue(Files.readString(Path.of("PROTOCOL.md"))
                    .contains("\n" + part.get(0) + "\n"));
            var code = Files.readString(Path.of(part.get(1)));
            for (int step = 1; step <= Integer.parseInt(part.get(2)); step++) {
                assertTrue(Pattern.compile("// (\\d, )?" + step + "(, \\d)?\\. [A-Z]").matcher(code)
                        .find(), part + ", step " + step);
            }
        }
    }
}
