import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.Base64;
import java.util.BitSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * One profile directory: two keys, the next counter and a config, as the original knockknock lays
 * them out. Reading one changes nothing; the counter is the only file that is ever written again.
 */
record Profile(Path dir, KnockCodec codec, Counter counter, Settings settings) {
    private static final List<String> KEYS =
            List.of("knock_port", "open_ports", "carrier", "source");

    /**
     * A profile's config. {@code openPorts} are the ports that it may open, if it says so; {@code
     * source} is "any", "bound", a literal address, or "" where nothing is said.
     */
    record Settings(int knockPort, Optional<BitSet> openPorts, KnockCodec.Carrier carrier,
            String source) {}

    /** Loads a profile and opens its counter. */
    static Profile load(Path dir) throws IOException {
        if (!Files.isDirectory(dir)) {
            throw new Failure("there is no profile " + dir + ": make one on the server with"
                    + " knockknock-genprofile, and copy it here");
        }
        var codec = new KnockCodec(key(dir.resolve("cipher.key")), key(dir.resolve("mac.key")));
        return new Profile(dir, codec, Counter.open(dir.resolve("counter")), settings(dir));
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
            return entries.filter(Files::isDirectory)
                    .filter(dir -> !dir.getFileName().toString().startsWith(".")).sorted().toList();
        }
    }

    /** The knock ports of all profiles below {@code parent}; no two may have the same. */
    static Map<Integer, Path> knockPorts(Path parent) throws IOException {
        var owners = new TreeMap<Integer, Path>();
        for (var dir : list(parent)) {
            var other = owners.put(settings(dir).knockPort, dir);
            if (other != null) {
                throw new Failure("the profiles " + other + " and " + dir
                        + " have the same knock_port: change one");
            }
        }
        return owners;
    }

    private static Settings settings(Path dir) throws IOException {
        var config = Config.read(dir.resolve("config"), KEYS);
        var openPorts = Optional.<BitSet>empty();
        if (config.get("open_ports").isPresent()) {
            var ports = new BitSet();
            for (var port : config.get("open_ports").get().split(",", -1)) {
                ports.set(port(config, "open_ports", port.strip()));
            }
            openPorts = Optional.of(ports);
        }
        var carrier = switch (config.get("carrier").orElse("cover")) {
            case "cover" -> KnockCodec.Carrier.COVER;
            case "classic" -> KnockCodec.Carrier.CLASSIC;
            default -> throw config.bad("carrier", "write cover or classic");
        };
        var source = config.get("source");
        if (source.isPresent() && !source.get().matches("any|bound") && !isAddress(source.get())) {
            throw config.bad("source", "write any, bound, or an address");
        }
        int knockPort = port(config, "knock_port", config.get("knock_port").orElse(""));
        return new Settings(knockPort, openPorts, carrier, source.orElse(""));
    }

    private static int port(Config config, String key, String text) {
        try {
            return port(text);
        } catch (Failure e) {
            throw config.bad(key, e.getMessage());
        }
    }

    /** A port in plain decimal, 1 to 65535. */
    static int port(String text) {
        if (!text.matches("[1-9][0-9]{0,4}") || Integer.parseInt(text) > 65535) {
            throw new Failure("'" + text + "' is not a port: give a number from 1 to 65535");
        }
        return Integer.parseInt(text);
    }

    /** Whether {@code text} is an IPv4 or IPv6 address, and no name. */
    static boolean isAddress(String text) {
        try {
            InetAddress.ofLiteral(text);
            return true;
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    private static byte[] key(Path file) throws IOException {
        var text = Config.text(file).strip();
        if (Files.getPosixFilePermissions(file).stream()
                .anyMatch(p -> p.compareTo(PosixFilePermission.GROUP_READ) >= 0)) {
            throw new Failure(file + " is open to other users: chmod 600 " + file);
        }
        if (!text.matches("[A-Za-z0-9+/]{22}==")) {
            throw new Failure(file + " is damaged: it must hold 16 bytes in base64; copy it from"
                    + " the other side again");
        }
        return Base64.getDecoder().decode(text);
    }
}
