import org.junit.jupiter.api.Test;
class EndToEndTest { @Test void x() {} }
