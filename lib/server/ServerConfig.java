import java.io.IOException;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.net.NetworkInterface;
import java.net.SocketException;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;

/**
 * A server's config: how many seconds a port stays open, how many counters are tried if it says so,
 * which log is read, and as whom: user and group by number, with the one further group that lets
 * them read the log, if it takes one.
 */
record ServerConfig(int delay, Optional<Integer> errorWindow, Optional<InetAddress> knockAddress,
        Path log, String userName, int user, int group, int[] logGroups) {

    /** Reads DIR/config, if it is there; {@code otherLog} takes the place of its log. */
    static ServerConfig read(Path dir, Optional<Path> otherLog) throws IOException {
        var file = dir.resolve("config");
        var config = Config.read(Files.exists(file) ? file : Path.of("/dev/null"), "delay",
                "error_window", "knock_address", "log", "user", "group");

        var log = otherLog.or(() -> config.get("log", Cli::file)).orElse(KernelLog.KMSG);
        if (!Files.exists(log) && !log.equals(KernelLog.KMSG)) {
            throw new Failure("there is no log " + log + ": name the file with the kernel's"
                    + " messages, or /dev/kmsg");
        }

        boolean ownUser = !lookUp("passwd", "knockknock").isEmpty();
        var name = config.get("user", text -> text).orElse(ownUser ? "knockknock" : "nobody");
        var user = lookUp("passwd", name);
        if (user.isEmpty()) {
            throw config.bad("user", "there is no such user");
        }
        int uid = Integer.parseInt(user.get(2)), gid = Integer.parseInt(user.get(3));
        var group = config.get("group", text -> text);
        if (group.isPresent()) {
            var entry = lookUp("group", group.get());
            if (entry.isEmpty()) {
                throw config.bad("group", "there is no such group");
            }
            gid = Integer.parseInt(entry.get(2));
        }
        if (uid == 0 || gid == 0) {
            throw new Failure(file + ": the daemon must not stay root: set user and group to"
                    + " unprivileged ones");
        }

        return new ServerConfig(config.get("delay", Config.number(3600)).orElse(15),
                config.get("error_window", Config.number(10_000)),
                config.get("knock_address", ServerConfig::knockAddress),
                log, name, uid, gid, logGroups(log));
    }

    private static InetAddress knockAddress(String text) {
        if (!Addresses.isAddress(text) || !(Addresses.read(text) instanceof Inet6Address address)
                || address.isLinkLocalAddress() || address.isMulticastAddress()
                || address.isLoopbackAddress() || address.isAnyLocalAddress()) {
            throw new Failure("give this host's IPv6 address in a /64 that is routed to it");
        }
        return address;
    }

    /** The /64 of knock_address; ::/64, in which nobody is but loopback, if there is none. */
    InetAddress knockNetwork() {
        try {
            var bytes = new byte[16];
            if (knockAddress.isPresent()) {
                System.arraycopy(knockAddress.get().getAddress(), 0, bytes, 0, 8);
            }
            return InetAddress.getByAddress(bytes);
        } catch (UnknownHostException e) {
            throw new IllegalStateException(e); // 16 bytes are an address
        }
    }

    /** Whether an address can be a knock: in the /64 of knock_address, and not this host's. */
    boolean carriesKnocks(InetAddress address) throws SocketException {
        return knockAddress.isPresent() && address instanceof Inet6Address
                && Arrays.equals(address.getAddress(), 0, 8, knockAddress.get().getAddress(), 0, 8)
                && NetworkInterface.getByInetAddress(address) == null;
    }

    /** /dev/kmsg is open before root is given up; a file is opened again whenever it is rotated. */
    private static int[] logGroups(Path log) throws IOException {
        if (log.equals(KernelLog.KMSG)) {
            return new int[0];
        }
        int group = (int) Files.getAttribute(log, "unix:gid");
        boolean needed = group != 0
                && Files.getPosixFilePermissions(log).contains(PosixFilePermission.GROUP_READ);
        return needed ? new int[] {group} : new int[0];
    }

    /** A line of the system's {@code passwd} or {@code group} database; empty if there is none. */
    private static List<String> lookUp(String database, String name) throws IOException {
        var process = new ProcessBuilder("/usr/bin/getent", "--", database, name);
        process.environment().clear();
        var output = process.start().getInputStream().readAllBytes();
        var line = new String(output, StandardCharsets.UTF_8).strip();
        return line.isEmpty() ? List.of() : List.of(line.split(":", -1));
    }
}
