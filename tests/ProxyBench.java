import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;

/** The proxy beside others: rates of connections and bytes, and memory. */
final class ProxyBench {
    private ProxyBench() {}

    private static final int GIGABYTE = 1 << 30;

    static void proxies() throws Exception {
        try (var lab = new Lab(); var threads = Executors.newVirtualThreadPerTaskExecutor();
                var server = new ServerSocket(0, 1000, InetAddress.ofLiteral("127.0.0.1"))) {
            threads.submit(() -> {
                for (;;) {
                    var socket = server.accept();
                    threads.submit(() -> exchange(socket));
                }
            });
            var plain = lab.script("knockknock-proxy", "12001");
            plain.set(0, Bench.ownJdk(lab) + "/bin/java");
            var script = Lab.withNetRaw(plain);
            var danted = Files.writeString(lab.work.resolve("danted.conf"), """
                    internal: 127.0.0.1 port = 12003
                    external: 127.0.0.1
                    clientmethod: none
                    socksmethod: none
                    user.privileged: root
                    user.unprivileged: nobody
                    client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
                    socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
                    """);
            var key = Sshd.start(lab, List.of("env"), "127.0.0.1", 12022);
            var commands = List.of(List.<String>of(), script,
                    List.of("microsocks", "-i", "127.0.0.1", "-p", "12002"),
                    List.of("danted", "-f", danted.toString()),
                            List.of("ssh", "-N", "-D", "127.0.0.1:12004", "-p", "12022", "-i",
                            key.toString(),
                    "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
                            "UserKnownHostsFile=/dev/null", "root@127.0.0.1"));
            for (int i = 0; i < commands.size(); i++) {
                var name = List.of("nothing", "knockknock-proxy", "microsocks", "danted", "ssh -D")
                        .get(i);
                int port = i == 0 ? 0 : 12000 + i;
                var process = port == 0 ? null
                        : lab.start(lab.work.resolve("proxy-" + i), commands.get(i));
                Callable<Socket> connect = () -> {
                    var socket = port == 0 ? new Socket()
                            : new Socket(new Proxy(Proxy.Type.SOCKS,
                            new InetSocketAddress("127.0.0.1", port)));
                    socket.connect(server.getLocalSocketAddress());
                    return socket;
                };
                Lab.await(name, () -> {
                    try (var _ = connect.call()) {
                        return true;
                    } catch (IOException e) {
                        return false;
                    }
                });
                if (port != 0) {
                    Thread.sleep(3000);
                    Measures.row("proxy " + name + ": memory, idle", "MB PSS",
                            List.of(Measures.memory(Measures.tree(process))));
                    var idle = Measures.repeat(500, connect);
                    Thread.sleep(3000);
                    Measures.row("proxy " + name + ": memory, 500 idle connections", "MB PSS",
                            List.of(Measures.memory(Measures.tree(process))));
                    for (var socket : idle) {
                        socket.close();
                    }
                }
                Measures.row("proxy " + name + ": download of 1 GiB", "MB/s",
                        Measures.repeat(5, () -> transfer(connect.call(), 'd')));
                Measures.row("proxy " + name + ": upload of 1 GiB", "MB/s",
                        Measures.repeat(5, () -> transfer(connect.call(), 'u')));
                for (int parallel : new int[] {1, 16}) {
                    Measures.row("proxy " + name + ": new connections, " + parallel + " at a time",
                            "/s", Measures.repeat(5, () -> connections(connect, parallel)));
                }
            }
        }
    }

    /**
     * The server's side: 'd' is answered with a GiB, 'u' with one byte after a GiB has come, all
     * else with one byte.
     */
    private static Void exchange(Socket socket) throws IOException {
        try (socket) {
            var chunk = new byte[1 << 18];
            int what = socket.getInputStream().read();
            if (what == 'd') {
                for (int sent = 0; sent < GIGABYTE; sent += chunk.length) {
                    socket.getOutputStream().write(chunk);
                }
            } else if (what == 'u') {
                for (long got = 0; got < GIGABYTE; got += socket.getInputStream().read(chunk)) { }
                socket.getOutputStream().write(1);
            } else if (what >= 0) {
                socket.getOutputStream().write(1);
            }
        }
        return null;
    }

    private static double transfer(Socket socket, char what) throws IOException {
        try (socket) {
            var chunk = new byte[1 << 18];
            long start = System.nanoTime();
            socket.getOutputStream().write(what);
            if (what == 'u') {
                for (int sent = 0; sent < GIGABYTE; sent += chunk.length) {
                    socket.getOutputStream().write(chunk);
                }
                socket.getInputStream().read();
            } else {
                for (int count; (count = socket.getInputStream().read(chunk)) >= 0; ) { }
            }
            return GIGABYTE / 1e6 / Measures.seconds(start);
        }
    }

    private static double connections(Callable<Socket> connect, int parallel) throws Exception {
        int each = 4000 / parallel;
        long start = System.nanoTime();
        try (var threads = Executors.newFixedThreadPool(parallel)) {
            for (int i = 0; i < parallel; i++) {
                threads.submit(() -> {
                    for (int n = 0; n < each; n++) {
                        try (var socket = connect.call()) {
                            socket.getOutputStream().write('c');
                            socket.getInputStream().read();
                        } catch (IOException e) {
                            throw new UncheckedIOException(e);
                        }
                    }
                    return null;
                });
            }
        }
        return each * parallel / Measures.seconds(start);
    }
}
