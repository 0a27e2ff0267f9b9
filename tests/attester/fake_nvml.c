/* A driver's library for tests: NVML's symbols and structures, answered by whoever listens at $FAKE_NVML.
 *
 * Written from NVIDIA's public nvml.h, not from the code under test, so that the two layouts check each other. A request is
 * one line ("report 0"), then the nonce; the answer is the bytes. An empty answer is NVML_ERROR_NOT_SUPPORTED.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef enum { NVML_SUCCESS = 0, NVML_ERROR_UNINITIALIZED = 1, NVML_ERROR_INVALID_ARGUMENT = 2, NVML_ERROR_NOT_SUPPORTED = 3, NVML_ERROR_UNKNOWN = 999 } nvmlReturn_t;
typedef struct nvmlDevice_st { unsigned int index; } *nvmlDevice_t;
typedef unsigned int nvmlDeviceArchitecture_t;

#define NVML_GPU_CERT_CHAIN_SIZE 0x1000
#define NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE 0x1400
typedef struct {
    unsigned int certChainSize;
    unsigned int attestationCertChainSize;
    unsigned char certChain[NVML_GPU_CERT_CHAIN_SIZE];
    unsigned char attestationCertChain[NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE];
} nvmlConfComputeGpuCertificate_t;

#define NVML_CC_GPU_CEC_NONCE_SIZE 0x20
#define NVML_CC_GPU_ATTESTATION_REPORT_SIZE 0x2000
#define NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE 0x1000
typedef struct {
    unsigned int isCecAttestationReportPresent;
    unsigned int attestationReportSize;
    unsigned int cecAttestationReportSize;
    unsigned char nonce[NVML_CC_GPU_CEC_NONCE_SIZE];
    unsigned char attestationReport[NVML_CC_GPU_ATTESTATION_REPORT_SIZE];
    unsigned char cecAttestationReport[NVML_CC_GPU_CEC_ATTESTATION_REPORT_SIZE];
} nvmlConfComputeGpuAttestationReport_t;

static int running;
static struct nvmlDevice_st devices[64];

static int ask(const char *what, unsigned int index, const void *more, size_t more_size, void *to, size_t room) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    char line[64];
    size_t got = 0;
    ssize_t part;
    int handle = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(place.sun_path, getenv("FAKE_NVML"), sizeof place.sun_path - 1);
    if (handle < 0 || connect(handle, (struct sockaddr *)&place, sizeof place)) return -1;
    snprintf(line, sizeof line, "%s %u\n", what, index);
    if (write(handle, line, strlen(line)) < 0 || (more_size && write(handle, more, more_size) < 0)) return -1;
    shutdown(handle, SHUT_WR);
    while (got < room && (part = read(handle, (char *)to + got, room - got)) > 0) got += part;
    close(handle);
    return (int)got;
}

nvmlReturn_t nvmlInit_v2(void) { running++; return getenv("FAKE_NVML_BROKEN") ? NVML_ERROR_UNKNOWN : NVML_SUCCESS; }
nvmlReturn_t nvmlShutdown(void) { return running-- > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED; }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    char text[16] = {0};
    if (running <= 0) return NVML_ERROR_UNINITIALIZED;
    if (ask("count", 0, 0, 0, text, sizeof text - 1) < 0) return NVML_ERROR_UNKNOWN;
    *count = (unsigned int)atoi(text);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index >= 64) return NVML_ERROR_INVALID_ARGUMENT;
    devices[index].index = index;
    *device = &devices[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch) {
    char text[16] = {0};
    if (ask("arch", device->index, 0, 0, text, sizeof text - 1) < 0) return NVML_ERROR_UNKNOWN;
    *arch = (unsigned int)atoi(text);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    if (length < 80) return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(uuid, length, "GPU-%08x-0000-0000-0000-000000000000", device->index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t device, nvmlConfComputeGpuAttestationReport_t *report) {
    int size = ask("report", device->index, report->nonce, sizeof report->nonce, report->attestationReport, sizeof report->attestationReport);
    if (size < 0) return NVML_ERROR_UNKNOWN;
    if (size == 0) return NVML_ERROR_NOT_SUPPORTED;
    report->attestationReportSize = (unsigned int)size;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t device, nvmlConfComputeGpuCertificate_t *chain) {
    int size = ask("chain", device->index, 0, 0, chain->attestationCertChain, sizeof chain->attestationCertChain);
    if (size < 0) return NVML_ERROR_UNKNOWN;
    chain->attestationCertChainSize = (unsigned int)size;
    chain->certChainSize = 0;
    return NVML_SUCCESS;
}
