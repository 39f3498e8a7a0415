///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN Fuzz
//DEPS com.code-intelligence:jazzer:0.30.0
//SOURCES ../lib/Carrier.java
//SOURCES ../lib/Counter.java
//SOURCES ../lib/Failure.java
//SOURCES ../lib/KnockCodec.java
//SOURCES ../lib/server/KnockWindow.java
//SOURCES ../lib/server/LogLine.java
//SOURCES ../lib/proxy/Socks.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+EnableDynamicAgentLoading

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ByteChannel;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Optional;
import java.util.OptionalLong;

import com.code_intelligence.jazzer.Jazzer;

/**
 * Coverage-guided fuzzing of all that reads bytes from outside: the log line, the seal, the SOCKS
 * greeting. Run
 * {@code jbang tests/Fuzz.java SECONDS}; what it finds interesting is kept in tests/corpus.
 */
public final class Fuzz {
    private static final BitSet PORTS = BitSet.valueOf(new long[] {2}); // port 1
    // ports below 64
    private static final KnockWindow.Terms TERMS =
            new KnockWindow.Terms(2, Optional.of(BitSet.valueOf(new long[] {~1L})), false);
    private static final KnockCodec CODEC = new KnockCodec(new byte[16], new byte[16]);

    /**
     * The first byte chooses the reader, the rest is what it reads. Nothing may throw but what a
     * reader says it throws.
     */
    public static void fuzzerTestOneInput(byte[] data) {
        if (data.length == 0) {
            return;
        }
        var rest = Arrays.copyOfRange(data, 1, data.length);
        switch (data[0] % 3) {
            case 0 -> LogLine.parse(rest, 0, rest.length, PORTS)
                    .ifPresent(syn -> open(syn.fields()));
            case 1 -> open(fields(ByteBuffer.wrap(Arrays.copyOf(rest, 12)), rest.length % 2 == 0));
            default -> greet(rest);
        }
    }

    private static KnockCodec.Fields fields(ByteBuffer in, boolean cover) {
        int id = Short.toUnsignedInt(in.getShort());
        long seq = Integer.toUnsignedLong(in.getInt()), third = Integer.toUnsignedLong(in.getInt());
        return cover ? new KnockCodec.Fields(id, seq, 0, 0, OptionalLong.of(third), false)
                : new KnockCodec.Fields(id, seq, third, Short.toUnsignedInt(in.getShort()),
                        OptionalLong.empty(), false);
    }

    private static void open(KnockCodec.Fields fields) {
        new KnockWindow(CODEC, TERMS, 0).open(fields, new byte[4]).ifPresent(request -> {
            throw new AssertionError("opened without the key: " + request);
        });
    }

    private static void greet(byte[] bytes) {
        var client = new Client(ByteBuffer.wrap(bytes));
        try {
            var request = Socks.accept(client);
            if (!request.host().matches("[A-Za-z0-9._:%-]+|\\[[0-9A-Fa-f:.]+]")
                    || request.port() < 0 || request.port() > 65535) {
                throw new AssertionError(request);
            }
        } catch (IOException e) {
            return; // as a garbled greeting should end
        }
    }

    /** A client that has sent all it will send. */
    private record Client(ByteBuffer sent) implements ByteChannel {
        @Override
        public int read(ByteBuffer to) {
            if (!sent.hasRemaining()) {
                return -1;
            }
            int count = Math.min(to.remaining(), sent.remaining());
            to.put(sent.slice(sent.position(), count));
            sent.position(sent.position() + count);
            return count;
        }

        @Override
        public int write(ByteBuffer reply) {
            int count = reply.remaining();
            reply.position(reply.limit());
            return count;
        }

        @Override
        public boolean isOpen() {
            return true;
        }

        @Override
        public void close() {}
    }

    public static void main(String[] args) throws Exception {
        var artifacts = Files.createTempDirectory("knock-fuzz") + "/";
        Jazzer.main(new String[] {"--target_class=Fuzz",
                "--instrumentation_includes=KnockCodec:KnockWindow:LogLine:Socks:Fuzz",
            "--reproducer_path=" + artifacts, "-artifact_prefix=" + artifacts, "-max_total_time="
                    + args[0], "-max_len=600",
            "-dict=tests/fuzz.dict", args.length > 1 ? args[1] : "tests/corpus"});
    }
}
