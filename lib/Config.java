import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/** A file of "key = value" lines below [main], read strictly: an error names file, line and key. */
final class Config {
    private final Path file;
    private final Map<String, String> values = new HashMap<>();

    private Config(Path file) {
        this.file = file;
    }

    /** Reads {@code file}, which may have each of {@code known} once and nothing else. */
    static Config read(Path file, String... known) throws IOException {
        var config = new Config(file);
        var lines = text(file).lines().map(String::strip).toList();
        for (int i = 0; i < lines.size(); i++) {
            var line = lines.get(i);
            if (line.matches("(|\\[main]|[#;].*)")) {
                continue;
            }
            var where = file + ", line " + (i + 1) + ": ";
            var parts = line.split("\\s*[=:]\\s*", 2);
            if (parts.length < 2) {
                throw new Failure(where + "'" + line + "' is no setting: write KEY = VALUE");
            }
            if (!List.of(known).contains(parts[0])) {
                throw new Failure(where + "unknown setting '" + parts[0] + "': known are "
                        + String.join(", ", known));
            }
            if (config.values.put(parts[0], parts[1]) != null) {
                throw new Failure(where + parts[0] + " is set twice: keep one");
            }
        }
        return config;
    }

    /** A setting, if it is there, as {@code reader} understands it, which says what will not do. */
    <T> Optional<T> get(String key, Function<String, T> reader) {
        try {
            return Optional.ofNullable(values.get(key)).map(reader);
        } catch (Failure e) {
            throw bad(key, e.getMessage());
        }
    }

    /** What to throw where the value of {@code key} will not do. */
    Failure bad(String key, String why) {
        return new Failure(file + ": " + key + " = " + values.getOrDefault(key, "") + ": " + why);
    }

    /** A reader of whole numbers from 1 to {@code most}. */
    static Function<String, Integer> number(int most) {
        return text -> {
            if (!text.matches("[1-9][0-9]{0,8}") || Integer.parseInt(text) > most) {
                throw new Failure("give a number from 1 to " + most);
            }
            return Integer.parseInt(text);
        };
    }

    /** A small text file, or a failure that says what is wrong with it. */
    static String text(Path file) throws IOException {
        try {
            return Files.readString(file, StandardCharsets.UTF_8);
        } catch (NoSuchFileException e) {
            throw new Failure(file + " is missing: copy this one file from the other side");
        } catch (IOException e) {
            throw new Failure("cannot read " + file + ": check its owner and mode");
        }
    }
}
