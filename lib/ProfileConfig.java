import java.io.IOException;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Function;

/**
 * The config of a profile. {@code openPorts} are the only ports that it may open, if it names any;
 * {@code connections} is how many a knock lets in; {@code carrier} is "cover", "classic" or
 * "address"; {@code source} is "any", "bound", an address, or
 * "" where it says nothing; {@code ipVersion} is 4, 6, or 0 for both (PROTOCOL.md 2).
 */
record ProfileConfig(int knockPort, Optional<Ports> openPorts, int connections, String carrier,
        String source, int ipVersion) {
    private static final List<String> KEYS = List.of("knock_port", "open_ports", "connections",
            "carrier", "source", "ip_version");

    /** Reads the file {@code config} of the profile in {@code directory}. */
    static ProfileConfig read(Path directory) throws IOException {
        if (!Files.isDirectory(directory)) {
            throw new Failure("there is no profile " + directory + ": make one on the server with"
                    + " knockknock-genprofile, and copy it here");
        }
        var config = Config.read(directory.resolve("config"), KEYS);
        int knockPort = read(config, "knock_port", Ports::number).orElseThrow(
                () -> config.bad("knock_port", "give a number from 1 to 65535"));
        var openPorts = read(config, "open_ports", Ports::list);
        var connections = config.get("connections").orElse("1");
        if (!connections.matches("[1-9]|[1-4][0-9]|50")) {
            throw config.bad("connections", "give a number from 1 to 50");
        }
        var carrier = config.get("carrier").orElse("cover");
        if (!carrier.matches("cover|classic|address")) {
            throw config.bad("carrier", "write cover, classic or address");
        }
        var source = config.get("source");
        if (source.isPresent() && !source.get().matches("any|bound") && !isAddress(source.get())) {
            throw config.bad("source", "write any, bound, or an address");
        }
        var ipVersion = config.get("ip_version").or(
                () -> carrier.equals("address") ? Optional.of("6") : Optional.empty());
        if (ipVersion.isPresent() && !ipVersion.get().matches("[46]")) {
            throw config.bad("ip_version", "write 4 or 6");
        }
        return new ProfileConfig(knockPort, openPorts, Integer.parseInt(connections),
                carrier, source.orElse(""),
                Integer.parseInt(ipVersion.orElse("0")));
    }

    /** Refuses a port that the server would refuse: a knock for it would only use up a counter. */
    void checkOpens(int port, String profile) {
        if (openPorts.isPresent() && !openPorts.get().numbers().get(port)) {
            throw new Failure("the profile " + profile + " does not open port " + port
                    + ", only " + openPorts.get() + ": see open_ports in its config");
        }
    }

    /** Those of {@code addresses} that are of IP version 4 or 6; all of them if it is 0. */
    static List<InetAddress> ofVersion(List<InetAddress> addresses, int version) {
        return addresses.stream().filter(address -> version == 0
                || version == (address instanceof Inet6Address ? 6 : 4)).toList();
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

    /** The knock ports of all profiles below {@code parent}; no two may have the same. */
    static Map<Integer, Path> knockPorts(Path parent) throws IOException {
        var owners = new TreeMap<Integer, Path>();
        for (var directory : list(parent)) {
            var other = owners.put(read(directory).knockPort, directory);
            if (other != null) {
                throw new Failure("the profiles " + other + " and " + directory
                        + " have the same knock_port: change one");
            }
        }
        return owners;
    }

    private static <T> Optional<T> read(Config config, String key, Function<String, T> reader) {
        try {
            return config.get(key).map(reader);
        } catch (Failure e) {
            throw config.bad(key, e.getMessage());
        }
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
}
