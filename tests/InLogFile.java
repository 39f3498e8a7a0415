import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.StandardOpenOption;

import org.junit.jupiter.api.BeforeEach;

/** A daemon that follows a log file, into which the test writes what the kernel would. */
abstract class InLogFile extends InLab {
    KnockCodec codec;

    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        codec = Lab.credentials(lab.dir.resolve("profiles/laptop")).codec();
        Files.writeString(lab.kernLog, "");
        lab.must("chmod", "644", lab.kernLog.toString());
    }

    void startDaemon() throws Exception {
        lab.startDaemon("--log", lab.kernLog.toString());
        Lab.await("tail", () -> lab.daemon().descendants().count() == 2);
    }

    /** The line that the kernel would log for the knock with this counter. */
    String line(long counter, int port) {
        return Traces.line(codec.seal(port, counter, Carrier.COVER, new byte[0]), 666);
    }

    void append(String text) throws IOException {
        Files.writeString(lab.kernLog, text, StandardOpenOption.APPEND, StandardOpenOption.CREATE);
    }

    /** All of the host's rules, and our table if it is there; counters aside. */
    String rules() throws Exception {
        return lab.mustOn("server", "nft", "-s", "list", "ruleset");
    }
}
