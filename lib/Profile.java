import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

import picocli.CommandLine.TypeConversionException;

/**
 * One profile directory: two keys, the next counter and a config, as the original knockknock lays them out. Reading one
 * changes nothing; the counter is the only file that is ever written again.
 */
record Profile(Path dir, KnockCodec codec, Counter counter, Config config) {
    private static final String COPY_AGAIN = ": copy the profile from the other side again";

    /** A profile's config; an empty {@code openPorts} means any port. */
    record Config(int knockPort, Set<Integer> openPorts, KnockCodec.Carrier carrier) {}

    /** Loads a profile and opens its counter. */
    static Profile load(Path dir) throws IOException {
        if (!Files.isDirectory(dir)) {
            throw new Cli.Failure("there is no profile " + dir + ": make one on the server with knockknock-genprofile,"
                    + " and copy it here");
        }
        return new Profile(dir, new KnockCodec(key(dir.resolve("cipher.key")), key(dir.resolve("mac.key"))),
                Counter.open(dir.resolve("counter")), config(dir));
    }

    /** Reads only the config of the profile in {@code dir}. */
    static Config config(Path dir) throws IOException {
        var file = dir.resolve("config");
        var config = settings(file, Set.of("knock_port", "open_ports", "carrier"));
        if (!config.containsKey("knock_port")) {
            throw new Cli.Failure(file + ": knock_port is missing: add a line 'knock_port = PORT'");
        }
        var openPorts = new TreeSet<Integer>();
        if (config.containsKey("open_ports")) {
            for (var port : config.get("open_ports").split(",", -1)) {
                openPorts.add(port(file, "open_ports", port.strip()));
            }
        }
        var carrier = switch (config.getOrDefault("carrier", "cover")) {
            case "cover" -> KnockCodec.Carrier.COVER;
            case "classic" -> KnockCodec.Carrier.CLASSIC;
            default -> throw new Cli.Failure(file + ": carrier must be cover or classic");
        };
        return new Config(port(file, "knock_port", config.get("knock_port")), openPorts, carrier);
    }

    /** The profile's name: on a server what it was called there, on a client the host. */
    String name() {
        return dir.getFileName().toString();
    }

    /** All profile directories below {@code parent}, by name; none if it does not exist. */
    static List<Path> list(Path parent) throws IOException {
        if (!Files.isDirectory(parent)) {
            return List.of();
        }
        try (var entries = Files.list(parent)) {
            return entries.filter(p -> Files.isDirectory(p) && !p.getFileName().toString().startsWith(".")).sorted().toList();
        }
    }

    /** Reads "key = value" lines below [main]; a key that is not in {@code known} is an error. */
    static Map<String, String> settings(Path file, Set<String> known) throws IOException {
        var values = new TreeMap<String, String>();
        for (var line : read(file).lines().map(String::strip).toList()) {
            if (line.isEmpty() || line.startsWith("#") || line.startsWith(";") || line.equals("[main]")) {
                continue;
            }
            var parts = line.split("\\s*[=:]\\s*", 2);
            if (parts.length < 2 || !known.contains(parts[0])) {
                throw new Cli.Failure(file + ": unknown setting '" + parts[0] + "': known are "
                        + String.join(", ", new TreeSet<>(known)));
            }
            if (values.put(parts[0], parts[1]) != null) {
                throw new Cli.Failure(file + ": " + parts[0] + " is set twice: keep one");
            }
        }
        return values;
    }

    /** A port from a config file. */
    private static int port(Path file, String key, String text) {
        try {
            return new Cli.Port().convert(text);
        } catch (TypeConversionException e) {
            throw new Cli.Failure(file + ": " + key + ": " + e.getMessage());
        }
    }

    private static byte[] key(Path file) throws IOException {
        var text = read(file).strip();
        if (Files.getPosixFilePermissions(file).stream().anyMatch(p -> p.compareTo(PosixFilePermission.GROUP_READ) >= 0)) {
            throw new Cli.Failure(file + " is open to other users: chmod 600 " + file);
        }
        if (!text.matches("[A-Za-z0-9+/]{22}==")) {
            throw new Cli.Failure(file + " is damaged: it must hold 16 bytes in base64" + COPY_AGAIN);
        }
        return Base64.getDecoder().decode(text);
    }

    private static String read(Path file) throws IOException {
        try {
            return Files.readString(file, StandardCharsets.UTF_8);
        } catch (NoSuchFileException e) {
            throw new Cli.Failure(file + " is missing" + COPY_AGAIN);
        } catch (IOException e) {
            throw new Cli.Failure("cannot read " + file + ": check its owner and mode");
        }
    }
}
