import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.api.AfterEach;

/**
 * knockknock-firewall alone, against a real kernel: with the privileges that the daemon gives it,
 * and fewer JVM options.
 */
abstract class InFirewallHalf extends InLab {
    static final int EIO = 5, EACCES = 13, EBUSY = 16, ENOSPC = 28;
    static final String ALONE = "-all,+net_admin";
    static final List<String> SETPRIV =
            List.of("--reuid=nobody", "--regid=nogroup", "--clear-groups",
            "--bounding-set=" + ALONE, "--inh-caps=" + ALONE, "--ambient-caps=" + ALONE,
                    "--no-new-privs");
    Process half;

    @AfterEach
    void endHalf() throws Exception {
        if (half != null) {
            half.destroyForcibly().waitFor();
        }
    }

    /**
     * The half as the daemon starts it, but for what {@code prefix} has in the place of setpriv's
     * own words.
     */
    List<String> command(List<String> setpriv, String allowed, String... options) throws Exception {
        var script = lab.script("knockknock-daemon");
        var jar = lab.work.resolve("half.jar");
        Files.copy(Path.of(script.get(script.indexOf("-classpath") + 1).split(":")[0]), jar,
                StandardCopyOption.REPLACE_EXISTING);
        lab.must("chmod", "644", jar.toString());
        var command = new ArrayList<>(List.of("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "setpriv"));
        command.addAll(setpriv);
        command.addAll(List.of(System.getProperty("java.home") + "/bin/java",
                "--enable-native-access=ALL-UNNAMED", "-Xmx8m",
                "-XX:+UseSerialGC"));
        command.addAll(List.of(options));
        command.addAll(List.of("-cp", jar.toString(), "KnockknockFirewall", "3", allowed, "666,667",
                "::"));
        return Lab.on("server", command);
    }

    void start(String allowed, String... options) throws Exception {
        half = new ProcessBuilder(command(SETPRIV, allowed, options))
                .redirectError(lab.work.resolve("err").toFile()).start();
        assertEquals(0, half.getInputStream().read(), said());
    }

    /** What it has printed. */
    String said() throws IOException {
        return Files.readString(lab.work.resolve("err"));
    }

    static byte[] record(String source, String destination, int port) {
        return ByteBuffer.allocate(34).put(mapped(source)).put(mapped(destination))
                .putShort((short) port).array();
    }

    static byte[] mapped(String address) {
        var bytes = InetAddress.ofLiteral(address).getAddress();
        return bytes.length == 16 ? bytes
                : ByteBuffer.allocate(16).putShort(10, (short) -1).put(12, bytes).array();
    }

    int ask(byte[] record) throws IOException {
        half.getOutputStream().write(record);
        half.getOutputStream().flush();
        return half.getInputStream().read();
    }

    int ask(String source, int port) throws IOException {
        return ask(record(source, source.contains(":") ? Lab.SERVER6 : Lab.SERVER, port));
    }

    String rules() throws Exception {
        return lab.mustOn("server", "nft", "-s", "list", "ruleset");
    }

    long expectations() throws Exception {
        return lab.mustOn("server", "cat", "/proc/net/nf_conntrack_expect").lines()
                .filter(line -> line.contains("proto=6") && !line.contains("src=127.0.0.1"))
                .count(); // but for the one that it tries itself with
    }

    String table() throws Exception {
        return lab.mustOn("server", "nft", "-s", "list", "table", "inet", "knockknock");
    }

    /** The log rule, but for the name of its chain. */
    String nameless(String table) {
        return table.replaceAll("chain k[0-9a-f]{16} ", "chain CHAIN ");
    }

    /** Rules that nft alone has made, in the place of all there are. */
    void loadHostsTable() throws Exception {
        lab.mustOn("server", "nft", """
                flush ruleset
                table inet host {
                    chain input {
                        type filter hook input priority filter; policy drop
                        ct state established,related accept
                        iif lo accept
                        meta l4proto ipv6-icmp accept
                    }
                }
                """);
    }

    long residentKilobytes() throws IOException {
        return Traces.kilobytes(half.pid(), "status", "VmRSS");
    }
}
