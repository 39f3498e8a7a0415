import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.util.Arrays;

import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;
import static java.nio.charset.StandardCharsets.US_ASCII;

/** The one way of calling the C library. */
final class Libc {
    /**
     * One type for all functions: they take up to six integers and pointers, which 64-bit Linux
     * passes in registers, where one too many is not seen. A second type takes 10 ms to make.
     */
    private static final MethodHandle CALL = Linker.nativeLinker().downcallHandle(
            FunctionDescriptor.of(JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG,
                    JAVA_LONG), Linker.Option.captureCallState("errno"));

    private Libc() {}

    /** Calls a function; -errno if it answers -1, as the kernel itself has it. */
    static long call(String function, long... arguments) {
        var a = Arrays.copyOf(arguments, 6);
        try (var arena = Arena.ofConfined()) {
            var address = Linker.nativeLinker().defaultLookup().findOrThrow(function);
            var errno = arena.allocate(Linker.Option.captureStateLayout()); // nothing else on Linux
            long result = (long) CALL.invokeExact(address, errno, a[0], a[1], a[2], a[3], a[4],
                    a[5]);
            return (int) result == -1 ? -errno.get(JAVA_INT, 0) : result;
        } catch (Throwable e) {
            throw new IllegalStateException(function, e);
        }
    }

    /** Calls a function that has to succeed. */
    static long must(String function, long... arguments) {
        long result = call(function, arguments);
        if (result < 0) {
            throw new Failure("the kernel refused " + function + " (" + errno(-result)
                    + "): does a container or a limit forbid it?");
        }
        return result;
    }

    /** An errno's name, such as EPERM; its number if it has none, or if glibc is below 2.32. */
    static String errno(long number) {
        boolean named = Linker.nativeLinker().defaultLookup().find("strerrorname_np").isPresent();
        var name = MemorySegment.ofAddress(named ? call("strerrorname_np", number) : 0);
        return name.address() == 0 ? "errno " + number
                : name.reinterpret(32).getString(0, US_ASCII);
    }
}
