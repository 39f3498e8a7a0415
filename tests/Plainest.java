import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/** The least that opens a port for a line of a log: tail, fdatasync, netlink; to measure beside. */
final class Plainest {
    private static final int IPPROTO_TCP = 6, PORTS = 200, DELAY = 3;

    static void main(String[] args) throws Exception {
        var source = InetAddress.ofLiteral(Lab.CLIENT);
        var destination = InetAddress.ofLiteral(Lab.SERVER);
        var kernel = new Netfilter(0);
        var counter = ByteBuffer.wrap("0000000000\n".getBytes(StandardCharsets.US_ASCII));
        try (var file = FileChannel.open(Path.of(args[1]), StandardOpenOption.CREATE,
                StandardOpenOption.WRITE);
                var lines = new ProcessBuilder("tail", "-n", "0", "-F", args[0]).start()
                        .inputReader()) {
            System.out.println("ready:");
            for (int n = 0; lines.readLine() != null; n++) {
                file.write(counter.rewind(), 0);
                file.force(false);
                int port = 1000 + n % PORTS;
                int error = kernel.expect(
                        new Netfilter.Flow(source, destination, IPPROTO_TCP, port), DELAY);
                System.out.println("opened " + port + ": " + error);
            }
        }
    }
}
