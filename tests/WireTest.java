import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.regex.Pattern;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * What a knock looks like to others, beside a SYN of the kernel's own; both IP versions; NAT; many
 * knocks at once.
 */
class WireTest extends InLab {
    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        lab.must("ln", "-s", lab.clientProfile(Lab.SERVER).toString(),
                lab.clientProfile(Lab.SERVER6).toString());
    }

    /** The IP packets of a capture file (libpcap's format, Ethernet). */
    static List<byte[]> packets(Path file) throws Exception {
        var in = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.nativeOrder());
        var packets = new ArrayList<byte[]>();
        for (in.position(24); in.remaining() >= 16; ) {
            var packet = new byte[in.getInt(in.position() + 8) - 14];
            in.get(in.position() + 16 + 14, packet);
            packets.add(packet);
            in.position(in.position() + 16 + 14 + packet.length);
        }
        return packets;
    }

    /**
     * Captures the kernel's SYN of a connect(2) to the knock port and then one knock, into two
     * files.
     */
    private void capture(String server, Path kernel, Path knock,
            String... options) throws Exception {
        for (var file : List.of(kernel, knock)) {
            var capture = lab.captureOne(file, "tcp dst port 666");
            if (file.equals(kernel)) {
                lab.run(Lab.on("client", "nc", "-z", "-w", "1", server, "666"));
            } else {
                var arguments = new ArrayList<>(List.of(options));
                arguments.addAll(List.of("-p", "22", server));
                lab.must(lab.knockCommand(arguments.toArray(String[]::new)));
            }
            capture.await();
        }
    }

    /**
     * Puts zeros where a knock and the kernel's SYNs may differ: ID or flow label, source port,
     * SEQ, TSval, checksums.
     */
    static String constantBytes(byte[] packet) {
        var bytes = ByteBuffer.wrap(packet);
        boolean six = packet[0] >> 4 == 6;
        int tcp = six ? 40 : 20;
        if (six) {
            bytes.putInt(0, bytes.getInt(0) & 0xFFF00000);
        } else {
            bytes.putShort(4, (short) 0).putShort(10, (short) 0);
        }
        bytes.putShort(tcp, (short) 0).putInt(tcp + 4, 0).putShort(tcp + 16, (short) 0);
        if (packet.length == tcp + 40) {
            bytes.putInt(tcp + 28, 0);
        }
        return HexFormat.of().formatHex(packet);
    }

    /** How p0f describes the one SYN of a capture: its label and raw signature. */
    static String p0f(Lab lab, Path capture) throws Exception {
        var out = lab.must("p0f", "-r", capture.toString());
        var found = Pattern.compile("\\| (os|raw_sig) += (.*)").matcher(out).results()
                .map(m -> m.group(2)).toList();
        assertEquals(2, found.size(), out);
        return found.toString();
    }

    private String tsharkComplaints(Path capture) throws Exception {
        return lab.must("tshark", "-r", capture.toString(), "-Y", "_ws.expert.severity > \"Chat\"",
                "-T", "fields", "-e",
                "_ws.expert.message");
    }

    @ParameterizedTest
    @CsvSource({
        "192.0.2.1, 1500, 4096 131072 33554432",
        "192.0.2.1, route 1480, 4096 131072 33554432",
        "2001:db8::1, route 1480, 4096 131072 33554432",
        "2001:db8::1, advertised 1480, 4096 131072 33554432",
        "192.0.2.1, 1400, 4096 131072 33554432",
        "192.0.2.1, 1500, 4096 131072 6291456",
        "192.0.2.1, 1400, 8192 524288 268435456",
        "2001:db8::1, 1500, 4096 131072 33554432",
        "2001:db8::1, 1400, 4096 131072 6291456",
        "2001:db8::1, 1500, 8192 524288 268435456"})
    void aCoverKnockIsTheKernelsOwnSyn(String server, String mtu,
            String receiveMemory) throws Exception {
        var number = mtu.replaceFirst(".* ", "");
        switch (mtu.split(" ")[0]) {
            case "route" -> lab.must("ip", "-n", "client", "route", "replace", server, "dev", "kk0",
                    "mtu", number);
            // a link that has just come up sets it back
            case "advertised" -> Lab.await("a router's MTU to stay", () -> {
                lab.mustOn("client", "sysctl", "-q", "-w", "net.ipv6.conf.kk0.mtu=" + number);
                Thread.sleep(1200);
                return lab.mustOn("client", "sysctl", "-n", "net.ipv6.conf.kk0.mtu").strip()
                        .equals(number);
            });
            default -> lab.must("ip", "-n", "client", "link", "set", "kk0", "mtu", number);
        }
        lab.mustOn("client", "sysctl", "-q", "-w", "net.ipv4.tcp_rmem=" + receiveMemory);
        var kernel = lab.work.resolve("kernel.pcap");
        var knock = lab.work.resolve("knock.pcap");
        capture(server, kernel, knock);
        assertEquals(constantBytes(packets(kernel).getFirst()),
                constantBytes(packets(knock).getFirst()));
        assertEquals(p0f(lab, kernel), p0f(lab, knock));
        assertEquals("", tsharkComplaints(knock));
    }

    @Test
    void theSameChecksTellAClassicKnockFromTheKernelsSyn() throws Exception {
        var kernel = lab.work.resolve("kernel.pcap");
        var knock = lab.work.resolve("knock.pcap");
        capture(Lab.SERVER, kernel, knock, "--classic");
        assertNotEquals(constantBytes(packets(kernel).getFirst()),
                constantBytes(packets(knock).getFirst()));
        assertNotEquals(p0f(lab, kernel), p0f(lab, knock));
        assertTrue(tsharkComplaints(knock)
                .contains("acknowledgment number field is nonzero while the ACK flag is not set"));
    }

    @Test
    void theVaryingFieldsOfTenThousandKnocksAreUniform() throws Exception {
        var codec = new KnockCodec(new byte[16], new byte[16]);
        var random = new Random(3);
        var shape = new KnockPacket.Shape(1460, 64240, 10, 32768, 60999, false);
        var client = InetAddress.ofLiteral(Lab.CLIENT6);
        var server = InetAddress.ofLiteral(Lab.SERVER6);
        int[] varying = {2, 3, 44, 45, 46, 47, 68, 69, 70, 71}; // flow label, SEQ, TSval
        var counts = new int[varying.length][256];
        var labels = new int[16];
        for (int counter = 0; counter < 10_000; counter++) {
            var packet = KnockPacket.make(client, server, 666,
                    codec.seal(22, counter, Carrier.COVER, counter % 2 == 0 ? new byte[0]
                            : client.getAddress()), shape, random.nextLong());
            for (int i = 0; i < varying.length; i++) {
                counts[i][packet[varying[i]] & 0xFF]++;
            }
            labels[packet[1] & 0x0F]++;
        }
        for (int i = 0; i < varying.length; i++) {
            // 255 degrees, p = 0.001
            assertTrue(chiSquare(counts[i]) < 330.5, "byte " + varying[i] + ": "
                    + chiSquare(counts[i]));
        }
        // 15 degrees, p = 0.001
        assertTrue(chiSquare(labels) < 37.7, "flow label's upper bits: " + chiSquare(labels));
    }

    private static double chiSquare(int[] counts) {
        double expected = 10_000.0 / counts.length;
        double sum = 0;
        for (int count : counts) {
            sum += (count - expected) * (count - expected) / expected;
        }
        return sum;
    }

    /** The kernel takes only ten lines from user space in five seconds, unless it is told to. */
    private static final class UnlimitedKmsg implements AutoCloseable {
        private static final Path SETTING = Path.of("/proc/sys/kernel/printk_devkmsg");
        private final String before;

        private UnlimitedKmsg() throws IOException {
            try (var in = Files.newInputStream(SETTING)) {
                before = new String(in.readNBytes(100));
            }
            Files.writeString(SETTING, "on\n");
        }

        @Override
        public void close() throws IOException {
            Files.writeString(SETTING, before);
        }
    }

    private void startServer() throws Exception {
        lab.serve(22);
        lab.startDaemon("--log", "/dev/kmsg");
    }

    @ParameterizedTest
    @ValueSource(strings = {"cover", "classic"})
    void oneKnockOverIpv6OpensOnePortForOneConnection(String carrier) throws Exception {
        lab.addSetting(lab.clientProfile(Lab.SERVER), "carrier = " + carrier);
        startServer();
        assertFalse(lab.connects(Lab.SERVER6, 22), "closed before");
        lab.knock(22, Lab.SERVER6);
        assertEquals(1, lab.said("opened port 22 for 2001:db8:0:0:0:0:0:2, profile laptop"),
                lab.said());
        assertTrue(lab.connects(Lab.SERVER6, 22), "open for one");
        assertFalse(lab.connects(Lab.SERVER6, 22), "closed behind it");
    }

    @Test
    void aNameWithBothAddressesIsKnockedOnAsTheSystemWouldConnect() throws Exception {
        lab.must("sh", "-c", "printf '" + Lab.SERVER + " both\\n" + Lab.SERVER6
                + " both\\n' >> /etc/hosts");
        lab.must("ln", "-s", lab.clientProfile(Lab.SERVER).toString(),
                lab.clientProfile("both").toString());
        startServer();
        var first = lab.mustOn("client", "getent", "ahosts", "both").split("\\s")[0];
        lab.knock(22, "both");
        assertEquals(1, lab.said("opened port 22 for "
                + (first.contains(":") ? "2001:db8:0:0:0:0:0:2" : Lab.CLIENT)), lab.said());
        lab.must(lab.knockCommand("-4", "-p", "23", "both"));
        Lab.await("IPv4", () -> lab.said("opened port 23 for " + Lab.CLIENT) == 1);
        lab.must(lab.knockCommand("-6", "-p", "24", "both"));
        Lab.await("IPv6", () -> lab.said("opened port 24 for 2001:db8:0:0:0:0:0:2") == 1);
        // now only IPv4 has a route
        lab.must("ip", "-n", "client", "-6", "address", "flush", "dev", "kk0");
        lab.must(lab.knockCommand("-p", "25", "both"));
        Lab.await("the family that has a route",
                () -> lab.said("opened port 25 for " + Lab.CLIENT) == 1);
    }

    @Test
    void linesThatUserSpaceWritesToKmsgAreNeverAccepted() throws Exception {
        startServer();
        lab.must(lab.knockCommand("-p", "23", Lab.SERVER));
        Lab.await("a real knock", () -> lab.said("opened port 23") == 1);
        var line = lab.must("sh", "-c", "dmesg | grep 'knockknock: IN=kk0' | tail -n 1")
                .replaceFirst("^\\[[ .0-9]*\\] ", "").strip();
        var codec = Lab.credentials(lab.dir.resolve("profiles/laptop")).codec();
        // right in all but where it comes from
        var forged = codec.seal(22, 5, Carrier.COVER, new byte[0]);
        line = line.replaceAll(" ID=\\d+", " ID=" + forged.id())
                .replaceAll("SEQ=\\d+", "SEQ=" + forged.seq())
                .replaceAll("080A[0-9A-F]{8}", "080A%08X".formatted(forged.tsval().getAsLong()));
        try (var _ = new UnlimitedKmsg()) {
            for (var priority : List.of("", "<0>", "<7>", "<14>", "<0>\n<7>", "<2048>")) {
                Files.writeString(Path.of("/dev/kmsg"), priority + line + "\n");
            }
        }
        lab.must(lab.knockCommand("-p", "24", Lab.SERVER)); // behind the forged ones in the log
        Lab.await("the next real knock", () -> lab.said("opened port 24") == 1);
        assertEquals(0, lab.said("opened port 22"), lab.said());
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    @Test
    void recordsFromBeforeTheStartAreNotRead() throws Exception {
        startServer();
        lab.knock(22, Lab.SERVER);
        lab.stopDaemon();
        // so that the old knock would be right again
        Files.writeString(lab.dir.resolve("profiles/laptop/counter"), "0\n");
        lab.startDaemon("--log", "/dev/kmsg");
        lab.must(lab.knockCommand("-p", "23", Lab.SERVER));
        Lab.await("the new knock", () -> lab.said("opened port 23") == 1);
        assertEquals(0, lab.said("opened port 22"), lab.said());
    }

    @Test
    void anOverrunOfKmsgIsReportedAndSurvived() throws Exception {
        startServer();
        long pid = lab.daemon().pid();
        lab.must("kill", "-STOP", "" + pid);
        try (var _ = new UnlimitedKmsg();
                var kmsg = Files.newBufferedWriter(Path.of("/dev/kmsg"))) {
            for (int i = 0; i < 6000; i++) {
                kmsg.write("knockknock tests fill the log " + "x".repeat(900) + "\n");
                kmsg.flush();
            }
        } finally {
            lab.must("kill", "-CONT", "" + pid);
        }
        Lab.await("the report", () -> lab.said("the kernel log ran over") >= 1);
        lab.must(lab.knockCommand("-p", "22", Lab.SERVER));
        Lab.await("a knock after it", () -> lab.said("opened port 22") == 1);
    }

    @ParameterizedTest
    @ValueSource(strings = {"cover", "classic"})
    void aKnockThroughNatOpensForTheNatsAddress(String carrier) throws Exception {
        lab.addSetting(lab.clientProfile(Lab.SERVER), "carrier = " + carrier);
        startServer();
        lab.must("ip", "netns", "add", "inside");
        try {
            lab.must("ip", "link", "add", "lan0", "netns", "inside", "type", "veth", "peer", "name",
                    "lan0", "netns", "client");
            lab.must("ip", "-n", "inside", "address", "add", "198.51.100.2/24", "dev", "lan0");
            lab.must("ip", "-n", "client", "address", "add", "198.51.100.1/24", "dev", "lan0");
            lab.must("ip", "-n", "inside", "link", "set", "lan0", "up");
            lab.must("ip", "-n", "client", "link", "set", "lan0", "up");
            lab.must("ip", "-n", "inside", "route", "add", "default", "via", "198.51.100.1");
            lab.mustOn("client", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1");
            lab.mustOn("client", "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "kk0", "-j",
                    "MASQUERADE");
            lab.must(Lab.on("inside", Lab.withNetRaw(lab.script("knockknock", "-p", "22",
                    Lab.SERVER))));
            Lab.await("the knock", () -> lab.said("opened port 22 for " + Lab.CLIENT) == 1);
            assertEquals(0, lab.run(Lab.on("inside", "nc", "-z", "-w", "1", Lab.SERVER, "22"))
                    .exit());
        } finally {
            lab.run(List.of("ip", "netns", "del", "inside"));
        }
    }

    @Test
    void fiftyClientsAtOnceUseFiftyCounters() throws Exception {
        startServer();
        var clients = new ArrayList<Process>();
        for (int i = 0; i < 50; i++) {
            clients.add(lab.start(lab.work.resolve("clients"),
                    List.of(lab.knockCommand("-p", "" + (1000 + i), Lab.SERVER))));
        }
        for (var client : clients) {
            assertEquals(0, client.waitFor());
        }
        assertEquals("", Files.readString(lab.work.resolve("clients")));
        assertEquals("0000000050\n", Files.readString(lab.clientProfile(Lab.SERVER)
                .resolve("counter")));
        // Packets of two processes can overtake each other on two processors, and one that comes
        // after its successor is refused.
        Lab.await(() -> "at least 49 openings: " + lab.said(),
                () -> lab.said("opened port 10") >= 49);
    }
}
