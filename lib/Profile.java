import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * One profile directory, as the original knockknock lays it out: two keys, the next counter, and a
 * config (PROTOCOL.md 2), which is what this record holds. {@code openPorts} are the only ports
 * that it may open, if it names any; {@code connections} is how many a knock lets in;
 * {@code ipVersion} is 4, 6, or 0 for both.
 */
record Profile(Path directory, int knockPort, Optional<Ports> openPorts, int connections,
        Carrier carrier, Source source, int ipVersion) {

    /** To which address knocks are bound: to none, the client's own, that if public, or another. */
    sealed interface Source {
        enum Rule implements Source { ANY, BOUND, IF_PUBLIC }

        record Other(InetAddress address) implements Source {}
    }

    /** Reads the config of the profile in {@code directory}. */
    static Profile read(Path directory) throws IOException {
        if (!Files.isDirectory(directory)) {
            throw new Failure("there is no profile " + directory + ": make one on the server with"
                    + " knockknock-genprofile, and copy it here");
        }
        var config = Config.read(directory.resolve("config"), "knock_port", "open_ports",
                "connections", "carrier", "source", "ip_version");
        int knockPort = config.get("knock_port", Ports::number).orElseThrow(
                () -> config.bad("knock_port", "give a number from 1 to 65535"));
        var carrier = config.get("carrier", Profile::carrier).orElse(Carrier.COVER);
        return new Profile(directory, knockPort, config.get("open_ports", Ports::list),
                config.get("connections", Config.number(50)).orElse(1), carrier,
                config.get("source", Profile::source).orElse(Source.Rule.IF_PUBLIC),
                config.get("ip_version", Profile::ipVersion)
                        .orElse(carrier == Carrier.ADDRESS ? 6 : 0));
    }

    private static Carrier carrier(String text) {
        return switch (text) {
            case "cover" -> Carrier.COVER;
            case "classic" -> Carrier.CLASSIC;
            case "address" -> Carrier.ADDRESS;
            default -> throw new Failure("write cover, classic or address");
        };
    }

    private static Source source(String text) {
        return switch (text) {
            case "any" -> Source.Rule.ANY;
            case "bound" -> Source.Rule.BOUND;
            case String address when Addresses.isAddress(address) ->
                    new Source.Other(Addresses.read(address));
            default -> throw new Failure("write any, bound, or an address");
        };
    }

    private static int ipVersion(String text) {
        return switch (text) {
            case "4" -> 4;
            case "6" -> 6;
            default -> throw new Failure("write 4 or 6");
        };
    }

    /** The same with what a client's options say instead of its config. */
    Profile with(Carrier carrier, Source source) {
        return new Profile(directory, knockPort, openPorts, connections, carrier, source,
                ipVersion);
    }

    /** The profile's name: on a server what it was called there, on a client the host. */
    String name() {
        return directory.getFileName().toString();
    }

    /** The 16 bytes of a key file, which nobody else may read. */
    byte[] key(String name) throws IOException {
        var file = directory.resolve(name);
        var text = Config.text(file).strip();
        var mode = PosixFilePermissions.toString(Files.getPosixFilePermissions(file));
        if (!mode.endsWith("------")) { // group, others
            throw new Failure(file + " is open to other users: chmod 600 " + file);
        }
        if (!text.matches("[A-Za-z0-9+/]{22}==")) {
            throw new Failure(file + " is damaged: it must hold 16 bytes in base64; copy it from"
                    + " the other side again");
        }
        return Base64.getDecoder().decode(text);
    }

    /** Opens the counter, the only file of a profile that is ever written again. */
    Counter openCounter() throws IOException {
        return Counter.open(directory.resolve("counter"));
    }

    /** Refuses a port that the server would refuse: a knock for it would only use up a counter. */
    void checkOpens(int port) {
        if (openPorts.isPresent() && !openPorts.get().numbers().get(port)) {
            throw new Failure("the profile " + name() + " does not open port " + port + ", only "
                    + openPorts.get() + ": see open_ports in its config");
        }
    }

    /** The directories of all profiles below {@code parent}, by name; none if it does not exist. */
    static List<Path> list(Path parent) throws IOException {
        if (!Files.isDirectory(parent)) {
            return List.of();
        }
        try (var entries = Files.list(parent)) {
            return entries.filter(Files::isDirectory)
                    .filter(directory -> !directory.getFileName().toString().startsWith("."))
                    .sorted().toList();
        }
    }

    /** All profiles below {@code parent}, by their knock ports; no two may have the same. */
    static Map<Integer, Profile> byKnockPort(Path parent) throws IOException {
        var profiles = new TreeMap<Integer, Profile>();
        for (var directory : list(parent)) {
            var profile = read(directory);
            var other = profiles.put(profile.knockPort, profile);
            if (other != null) {
                throw new Failure("the profiles " + other.directory + " and " + directory
                        + " have the same knock_port: change one");
            }
        }
        return profiles;
    }
}
