/* Helps the tests under Wine: does to files what no shell can.
 *   hold open FILE           holds a file that nobody else may open, until standard input ends
 *   hold lone FOLDER         makes a file whose name has an unpaired surrogate
 *   hold attributes FILE N   sets its attributes
 *   hold show FILE           prints its attributes and times */
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

int wmain(int count, wchar_t **words) {
    if (count < 3) return 2;
    if (!wcscmp(words[1], L"open")) {
        HANDLE file = CreateFileW(words[2], GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, 0, NULL);
        if (file == INVALID_HANDLE_VALUE) return 1;
        puts("held");
        fflush(stdout);
        while (getchar() != EOF) {}
        CloseHandle(file);
        return 0;
    }
    if (!wcscmp(words[1], L"lone")) {
        wchar_t path[512];
        HANDLE file;
        DWORD written;
        swprintf(path, 512, L"%ls\\lone \xd800 surrogate", words[2]);
        file = CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
        if (file == INVALID_HANDLE_VALUE) return 1;
        WriteFile(file, "alone", 5, &written, NULL);
        CloseHandle(file);
        return 0;
    }
    if (!wcscmp(words[1], L"attributes")) return count > 3 && SetFileAttributesW(words[2], wcstoul(words[3], NULL, 0)) ? 0 : 1;
    if (!wcscmp(words[1], L"show")) {
        WIN32_FILE_ATTRIBUTE_DATA data;
        if (!GetFileAttributesExW(words[2], GetFileExInfoStandard, &data)) return 1;
        printf("%lx %lx%08lx\n", data.dwFileAttributes, data.ftLastWriteTime.dwHighDateTime, data.ftLastWriteTime.dwLowDateTime);
        return 0;
    }
    return 2;
}
