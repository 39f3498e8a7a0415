import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

import org.junit.jupiter.api.BeforeEach;

/** A server to which a /64 is routed, and a user of the client for whom there is no privilege. */
abstract class InRoutedNetwork extends InLab {
    static final String HOST = "2001:db8:1:2::1";
    static final String OPENED = "opened port 22 for 2001:db8:0:0:0:0:0:2, profile laptop";
    static final HexFormat HEX = HexFormat.of();
    @BeforeEach
    void startLab() throws Exception {
        lab.must("ip", "-n", "server", "address", "add", HOST + "/64", "dev", "kk0", "nodad");
        lab.must("ip", "-n", "client", "route", "add", "2001:db8:1:2::/64", "via", Lab.SERVER6);
        lab.must(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(), "--open",
                "22,53/udp", "laptop", "666"));
        lab.must("cp", "-a", lab.dir + "/profiles/laptop", lab.clientProfile(HOST).toString());
        lab.addSetting(lab.clientProfile(HOST), "carrier = address");
        lab.config("delay = 3\nknock_address = " + HOST);
    }

    void startServer() throws Exception {
        lab.serve(22);
        lab.startDaemon();
    }

    /** On the client, as one for whom there is no sudo and no capability in reach. */
    List<String> asAliceAlone(List<String> command) throws Exception {
        var all = new ArrayList<>(lab.asAlice(command));
        all.addAll(all.indexOf("setpriv") + 1, List.of("--bounding-set=-all", "--no-new-privs"));
        all.add(all.indexOf("USER=alice"), "HOME=" + lab.home);
        all.addAll(0, List.of("unshare", "--mount", "sh", "-c",
                "mount --bind /dev/null $(command -v sudo) && exec \"$@\"", "sh"));
        return all;
    }

    List<String> script(String name, String... arguments) throws Exception {
        return lab.readable(lab.script(name, arguments));
    }

    String knockAsAlice() throws Exception {
        return lab.must(asAliceAlone(script("knockknock", "-p", "22", HOST)));
    }

    void assertOpensOnce() throws Exception {
        assertTrue(lab.connects(HOST, 22), lab.said());
        assertFalse(lab.connects(HOST, 22));
    }

    void awaitOpened(int times) throws Exception {
        Lab.await(() -> times + " times " + OPENED + ": " + lab.said(),
                () -> lab.said(OPENED) == times);
    }

    /**
     * What tcpdump prints of SYNs from the client to the network while something is done, and a
     * little longer.
     */
    List<String> syns(String filter, double seconds, Action action) throws Exception {
        var capture = lab.capture("-Q", "in", "-i", "kk0", "ip6 and dst net 2001:db8:1:2::/64 and "
                + filter);
        action.run();
        // the time is what is tested: a kernel repeats a SYN after one, three and seven seconds
        Thread.sleep((long) (seconds * 1000));
        capture.end();
        return capture.text().lines().filter(line -> line.contains(" > ")).toList();
    }

    interface Action {
        void run() throws Exception;
    }
}
